"""The small building blocks that every layer uses."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mini_moe.ops import linear, normalise, swiglu_product
from mini_moe.ops.reference import rms_norm

__all__ = ["Linear", "RMSNorm", "SwiGLU", "rms_norm"]


class RMSNorm(nn.Module):
    """Scale a vector to a mean square of one, then by a learned weight per channel.

    y = weight ⊙ x / √(mean(x²) + eps), computed in fp32; under autocast y has its dtype,
    so the projections that share y don't each round it again.
    Source: Zhang and Sennrich, arXiv 1910.07467 §4.
    """

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        return normalise(x, self.weight, self.eps)


class Linear(nn.Linear):
    """W x without a bias, like every linear layer in the model."""

    def __init__(self, d_in: int, d_out: int) -> None:
        super().__init__(d_in, d_out, bias=False)

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        return linear(x, self.weight)


class SwiGLU(nn.Module):
    """The feed-forward network of dense blocks and shared experts; routed experts have its form.

    W_down (silu(W_gate x) ⊙ W_up x). Source: Shazeer, arXiv 2002.05202 §2.
    """

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.gate_proj = Linear(d_model, d_ff)
        self.up_proj = Linear(d_model, d_ff)
        self.down_proj = Linear(d_ff, d_model)

    def forward(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        return self.down_proj(swiglu_product(self.gate_proj(x), self.up_proj(x)))
