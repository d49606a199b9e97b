"""The small parts that every block is made of."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mini_moe.ops import linear, normalise, swiglu_product
from mini_moe.ops.reference import rms_norm

__all__ = ["Linear", "RMSNorm", "SwiGLU", "rms_norm"]


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


class Linear(nn.Linear):
    """W x, without a bias, as all products of the model are."""

    def __init__(self, d_in: int, d_out: int) -> None:
        super().__init__(d_in, d_out, bias=False)

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        return linear(x, self.weight)


class SwiGLU(nn.Module):
    """The feed-forward network of a dense block, a shared expert, and of each routed expert.

    W_down (silu(W_gate x) ⊙ W_up x). Source: Shazeer, arXiv 2002.05202 §2.
    """

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.gate_proj = Linear(d_model, d_ff)
        self.up_proj = Linear(d_model, d_ff)
        self.down_proj = Linear(d_ff, d_model)

    def forward(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        return self.down_proj(swiglu_product(self.gate_proj(x), self.up_proj(x)))
