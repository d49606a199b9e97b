"""`mini_moe::linear`: a matrix product that rounds the weight on the fly instead of copying it."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mini_moe.ops import compiled
from mini_moe.ops.compiled import serves
from mini_moe.ops.context import autocast_dtype
from mini_moe.ops.registration import register

FEWEST_ROWS = 8  # for fewer, packing the weight takes longer than it saves


def linear(
    x: Float[Tensor, "*batch d_in"],
    weight: Float[Tensor, "d_out d_in"],
    dtype: torch.dtype | None = None,
) -> Float[Tensor, "*batch d_out"]:
    """x weightᵀ, computed in `dtype`: by default autocast's or, without autocast, that of x.

    For many rows, the compiled product reads x and weight as they are and rounds them while
    packing; the weight's gradient is accumulated directly in the weight's dtype. Both gradients
    come from one pass and can't be differentiated again.
    Raises: ValueError (RuntimeError without the kernel) if the widths differ.
    """
    computed = dtype or autocast_dtype(x) or (x.dtype if x.dtype == weight.dtype else None)
    many = x.numel() >= FEWEST_ROWS * x.shape[-1] > 0
    if many and computed in compiled.DTYPES and serves(x, weight):
        rows, narrow = x.reshape(-1, x.shape[-1]), computed == torch.bfloat16
        with compiled.named_errors():
            out = torch.ops.mini_moe.linear(rows, weight, narrow)
        return out.view(*x.shape[:-1], len(weight))
    if dtype is None:
        return F.linear(x, weight)
    with torch.autocast(x.device.type, enabled=False):
        return F.linear(x.to(dtype), weight.to(dtype))


def _forward(x, weight, narrow):
    return x.new_empty(len(x), len(weight), dtype=torch.bfloat16 if narrow else torch.float32)


def _backward(grad, x, weight):
    return x.new_empty(x.shape), weight.new_empty(weight.shape)


def _save(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[:2])


def _differentiate(ctx, grad):
    return *torch.ops.mini_moe.linear_backward(grad, *ctx.saved_tensors), None


register("linear", _forward, _backward, _differentiate, _save)
