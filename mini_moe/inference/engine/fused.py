"""Run all layers on a few tokens in one compiled call, if one is available."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mini_moe.inference.cache import LatentCache
from mini_moe.model.layers import RMSNorm
from mini_moe.model.transformer import Block
from mini_moe.ops.context import allowed_form
from mini_moe.ops.decode import decode, flat, serves, settings_of
from mini_moe.ops.gate import gate_settings

FEW = 16  # most tokens per pass; with more, packing the matrices first pays off


class FusedLayers:
    """One call over the model's own matrices, passed as one list, not absorbed ones."""

    def __init__(self, blocks: Sequence[Block], norm: RMSNorm, rotation: Tensor) -> None:
        layers = [tensors_of(block) for block in blocks]
        attention = blocks[0].self_attn
        gates = [block.mlp.gate.config for block in blocks if block.is_moe]
        config = gates[0] if gates else attention.config
        alike = all(gate_settings(own) == gate_settings(config) for own in gates)
        self.serves = alike and serves(config, layers, norm.weight)
        if self.serves:
            self.layers, self.norm = flat(layers), norm.weight.detach().float()
            self.rotation = torch.view_as_real(rotation).contiguous()
            self.settings = settings_of(config, attention.scale)

    def takes(self, tokens: int) -> bool:
        """Whether a pass over this many tokens runs as one call."""
        return self.serves and tokens <= FEW and allowed_form() == "compiled"

    def __call__(self, x: Tensor, cache: LatentCache) -> Tensor:
        return decode(
            x, cache.numbers, cache.lengths, self.rotation, self.layers, self.norm, self.settings
        )


def tensors_of(block: Block) -> dict[str, Tensor]:
    """Return a block's weights by their names in `decode.TENSORS`."""
    attention, mlp = block.self_attn, block.mlp
    found = {
        "input_norm": block.input_layernorm.weight,
        "keep": attention.kv_a_proj_with_mqa.weight,
        "latent_norm": attention.kv_a_layernorm.weight,
        "up": attention.kv_b_proj.weight,
        "out": attention.o_proj.weight,
        "post_norm": block.post_attention_layernorm.weight,
    }
    if attention.config.q_lora_rank is None:
        found["query"] = attention.q_proj.weight
    else:
        found["query_a"], found["query"] = attention.q_a_proj.weight, attention.q_b_proj.weight
        found["query_norm"] = attention.q_a_layernorm.weight
    shared = mlp.shared_experts if block.is_moe else mlp
    if shared is not None:
        for name in ("gate_proj", "up_proj", "down_proj"):
            found[name] = getattr(shared, name).weight
    if block.is_moe:
        found["router"] = mlp.gate.weight
        found["gate_up_proj"], found["experts_down_proj"] = mlp.experts.parameters()
        if mlp.gate.e_score_correction_bias is not None:
            found["bias"] = mlp.gate.e_score_correction_bias
    return found
