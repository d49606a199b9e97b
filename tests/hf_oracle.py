"""transformers' DeepSeek models in small random shapes: the reference for whole models."""

import random

import torch
import transformers
from torch import Tensor
from transformers import (
    DeepseekV2Config,
    DeepseekV2ForCausalLM,
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
)

from mini_moe.model import Transformer

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

VOCAB = 97


def random_hf_config(seed: int, **changes) -> DeepseekV3Config:
    """Draw a valid small DeepSeek-V3 config from a seed; the draws cover every switch."""
    draw = random.Random(seed)
    groups = draw.choice([1, 2, 4])
    experts = groups * draw.choice([2, 3, 4, 8])
    kept = draw.randint(1, groups)
    layers = draw.randint(1, 4)
    rope = {"rope_type": "default", "rope_theta": draw.choice([500.0, 10_000.0])}
    if draw.random() < 0.5:
        rope |= {"rope_type": "yarn", "factor": draw.choice([2.0, 4.0, 40.0])}
        rope |= {"original_max_position_embeddings": 32, "beta_fast": 32.0, "beta_slow": 1.0}
        rope |= {"mscale": draw.choice([1.0, 0.707]), "mscale_all_dim": draw.choice([1.0, 0.5])}
    fields = {
        "vocab_size": VOCAB,
        "hidden_size": draw.choice([32, 48]),
        "intermediate_size": 64,
        "moe_intermediate_size": 24,
        "num_hidden_layers": layers,
        "num_attention_heads": draw.choice([1, 2, 4]),
        "num_key_value_heads": None,
        "n_shared_experts": draw.randint(0, 2),
        "n_routed_experts": experts,
        "n_group": groups,
        "topk_group": kept,
        "num_experts_per_tok": draw.randint(1, min(8, experts // groups * kept)),
        "first_k_dense_replace": draw.randint(0, min(2, layers - 1)),
        "norm_topk_prob": draw.random() < 0.5,
        "kv_lora_rank": 16,
        "q_lora_rank": draw.choice([None, 24]),
        "qk_rope_head_dim": draw.choice([4, 8]),
        "qk_nope_head_dim": 16,
        "v_head_dim": draw.choice([12, 20, 24, 32]),
        "routed_scaling_factor": draw.choice([1.0, 2.5]),
        "tie_word_embeddings": draw.random() < 0.5,
        "max_position_embeddings": 128,
        "rope_parameters": rope,
        "initializer_range": draw.choice([0.02, 0.08]),
    }
    return DeepseekV3Config(**fields | changes)


def random_hf_model(seed: int, **changes) -> DeepseekV3ForCausalLM:
    """Build a DeepSeek-V3 with random weights, norms other than one and nonzero expert biases."""
    config = random_hf_config(seed, **changes)
    torch.manual_seed(seed)
    return randomised(DeepseekV3ForCausalLM(config).eval())


def random_v2_model(seed: int, **changes) -> DeepseekV2ForCausalLM:
    """Build a random DeepSeek-V2: softmax, groups scored by their maximum, no bias."""
    grouped = bool(seed % 2)
    ours = random_hf_config(seed, initializer_range=0.1).to_dict()
    names = set(DeepseekV2Config().to_dict()) - {"model_type", "head_dim", "qk_head_dim"}
    fields = {name: value for name, value in ours.items() if name in names}
    fields |= {"num_attention_heads": 2, "num_key_value_heads": 2, "norm_topk_prob": False}
    fields |= {"n_group": 2, "topk_group": 1, "n_routed_experts": 8, "num_experts_per_tok": 3}
    fields |= {"topk_method": "group_limited_greedy" if grouped else "greedy"}
    fields |= {"routed_scaling_factor": 16.0 if grouped else 1.0}
    fields |= {"first_k_dense_replace": seed // 2 % 2, "num_hidden_layers": 3}
    torch.manual_seed(seed)
    return randomised(DeepseekV2ForCausalLM(DeepseekV2Config(**fields | changes)).eval())


@torch.no_grad()
def randomised(model):
    """Randomise norms away from one, and give experts biases that change the choice."""
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.uniform_(0.5, 1.5)
    for name, buffer in model.named_buffers():
        if name.endswith("e_score_correction_bias"):
            buffer.normal_(std=0.1)
    return model


def next_token_loss(logits: Tensor, tokens: Tensor) -> Tensor:
    """Return the mean cross-entropy of every token after the first."""
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


def gradient_pairs(ours: Transformer, theirs: DeepseekV3ForCausalLM):
    """Yield (name, our gradient, theirs) for our parameters; fail if one of theirs is left over."""
    expected = {name: p.grad for name, p in theirs.named_parameters() if p.numel()}
    for name, parameter in ours.named_parameters():
        hf_name = name if name.startswith("lm_head") else f"model.{name}"
        gradient = expected.pop(hf_name)
        shape = parameter.shape
        yield (
            name,
            _or_zeros(parameter.grad, shape),
            _or_zeros(gradient, shape).reshape(shape),
        )
    if expected:
        raise AssertionError(f"transformers has parameters without a counterpart: {list(expected)}")


def _or_zeros(gradient: Tensor | None, shape: torch.Size) -> Tensor:
    return torch.zeros(shape) if gradient is None else gradient
