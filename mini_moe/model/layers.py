"""The two small parts that every block is made of."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mini_moe.ops.rms_norm import normalise, rms_norm
from mini_moe.ops.swiglu import swiglu_product

__all__ = ["RMSNorm", "SwiGLU", "rms_norm"]


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
        return normalise(x, self.weight, self.eps)


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
        return self.down_proj(swiglu_product(self.gate_proj(x), self.up_proj(x)))
