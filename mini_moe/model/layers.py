"""The two small parts that every block is made of."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mini_moe.ops.precision import autocast_dtype


class RMSNorm(nn.Module):
    """Scale a vector to mean square one, then by a learned weight per channel.

    y = weight ⊙ x / √(mean(x²) + eps), computed in fp32; under autocast y has its type, so that
    the projections that share y don't each round it again.
    Source: Zhang and Sennrich, arXiv 1910.07467 §4.
    """

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        normed = rms_norm(x, self.weight, self.eps)
        return normed.to(autocast_dtype(x) or normed.dtype)


class SwiGLU(nn.Module):
    """The feed-forward network of a dense block, a shared expert, and of each routed expert.

    W_down (silu(W_gate x) ⊙ W_up x). Source: Shazeer, arXiv 2002.05202 §2.
    """

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(d_model, d_ff, bias=False)
        self.up_proj = nn.Linear(d_model, d_ff, bias=False)
        self.down_proj = nn.Linear(d_ff, d_model, bias=False)

    def forward(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


def rms_norm(
    x: Float[Tensor, "*batch width"], weight: Float[Tensor, "width"], eps: float
) -> Float[Tensor, "*batch width"]:
    """x / √(mean(x²) + eps), times weight; the division in fp32 whatever x is."""
    wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
    normed = wide * torch.rsqrt(wide.pow(2).mean(dim=-1, keepdim=True) + eps)
    return weight * normed.to(x.dtype)
