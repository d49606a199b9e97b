"""Rotary position embeddings, and YaRN, which stretches them over longer contexts."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from mini_moe.config import ModelConfig
from mini_moe.ops.reference import apply_rope

__all__ = [
    "apply_rope",
    "rope_frequencies",
    "rope_rotation",
    "softmax_scale",
    "yarn_frequencies",
    "yarn_temperature",
]


def rope_frequencies(width: int, theta: float) -> Float[Tensor, "pairs"]:
    """Return the radians per position for each pair of channels: theta^(−2i / width) for pair i.

    Source: Su et al., arXiv 2104.09864 §3.2.2.
    """
    exponent = torch.arange(0, width, 2, dtype=torch.float32) / width
    return 1.0 / theta**exponent


def yarn_frequencies(config: ModelConfig) -> Float[Tensor, "pairs"]:
    """Return RoPE's frequencies, with the slow ones divided by `yarn_factor` and a ramp between.

    A pair that rotates more than beta_fast times over the original context keeps its frequency; for
    one that rotates fewer than beta_slow times it is divided. The ramp is linear in the pair's
    index, as in DeepSeek's code; in the paper it is linear in the number of rotations.
    Source: YaRN, arXiv 2309.00071 §3.2; DeepSeek-V3, arXiv 2412.19437 §4.3.
    """
    width = config.qk_rope_head_dim
    frequencies = rope_frequencies(width, config.rope_theta)
    if config.yarn_factor == 1:
        return frequencies

    def pair_that_turns(times: float) -> float:
        wavelengths = config.yarn_original_seq_len / (times * 2 * math.pi)
        return width * math.log(wavelengths) / (2 * math.log(config.rope_theta))

    low = max(math.floor(pair_that_turns(config.yarn_beta_fast)), 0)
    high = min(math.ceil(pair_that_turns(config.yarn_beta_slow)), width - 1)
    ramp = (torch.arange(width // 2, dtype=torch.float32) - low) / (high - low or 0.001)
    divided = ramp.clamp(0, 1)
    return frequencies / config.yarn_factor * divided + frequencies * (1 - divided)


def yarn_temperature(factor: float, mscale: float) -> float:
    """0.1 · mscale · ln(factor) + 1: how much attention is sharpened for a longer context.

    Source: YaRN, arXiv 2309.00071 §3.4, with DeepSeek's mscale.
    """
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def softmax_scale(config: ModelConfig) -> float:
    """Return 1/√(width of a query), times YaRN's temperature squared."""
    scale = config.qk_head_dim**-0.5
    if config.yarn_mscale_all_dim:
        scale *= yarn_temperature(config.yarn_factor, config.yarn_mscale_all_dim) ** 2
    return scale


def rope_rotation(
    config: ModelConfig, start: int, length: int, device: torch.device
) -> Float[Tensor, "seq pairs 2"]:
    """Return cosine and sine of every pair's angle at positions start … start + length − 1."""
    positions = torch.arange(start, start + length, dtype=torch.float32, device=device)
    angles = positions[:, None] * yarn_frequencies(config).to(device)
    rotation = torch.stack((angles.cos(), angles.sin()), dim=-1)
    if config.yarn_mscale and config.yarn_mscale_all_dim:
        numerator = yarn_temperature(config.yarn_factor, config.yarn_mscale)
        return (
            rotation * numerator / yarn_temperature(config.yarn_factor, config.yarn_mscale_all_dim)
        )
    return rotation * yarn_temperature(config.yarn_factor, 1.0)
