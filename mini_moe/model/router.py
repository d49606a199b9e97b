"""Which experts each token goes to, and how much weight each one gets."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mini_moe import ops
from mini_moe.config import ModelConfig
from mini_moe.ops.reference import Routing, allowed_experts, choose, gate_weights, route

__all__ = ["Router", "Routing", "allowed_experts", "choose", "gate_weights", "route"]


class Router(nn.Module):
    """Score every expert for every token and pick the best, always in fp32.

    Source: DeepSeek-V3, arXiv 2412.19437 §2.1.2, equations 12–16; DeepSeek-V2, arXiv 2405.04434
    §2.2.1–2.2.2 for softmax and the group maximum.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.empty(config.n_routed_experts, config.d_model))
        self.e_score_correction_bias: Tensor | None
        bias = torch.zeros(config.n_routed_experts, dtype=torch.float32)
        self.register_buffer("e_score_correction_bias", bias if config.expert_bias else None)

    def _apply(self, fn: Callable, recurse: bool = True) -> "Router":
        """Apply `model.bfloat16()` and the like, but keep the bias in fp32.

        Balancing changes the bias in steps that narrower dtypes would round away.
        """
        bias = self.e_score_correction_bias
        super()._apply(fn, recurse)
        moved = self.e_score_correction_bias
        if moved is not None and moved.dtype != torch.float32:
            self.e_score_correction_bias = bias.to(moved.device, torch.float32)
        return self

    def forward(self, x: Float[Tensor, "tokens d_model"]) -> Routing:
        with torch.autocast(x.device.type, enabled=False):
            wide = torch.promote_types(self.weight.dtype, torch.float32)
            logits = ops.linear(x, self.weight, wide)
            return ops.route(logits, self.e_score_correction_bias, self.config)
