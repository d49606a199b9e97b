"""`mini_moe::swiglu_product`: the activation between the matrix products of a dense SwiGLU."""

import torch
from jaxtyping import Float
from torch import Tensor

from mini_moe.ops import reference
from mini_moe.ops.compiled import serves
from mini_moe.ops.registration import register


def swiglu_product(
    gate: Float[Tensor, "*batch d_ff"], up: Float[Tensor, "*batch d_ff"]
) -> Float[Tensor, "*batch d_ff"]:
    """silu(gate) ⊙ up. Compiled into one pass whose gradients can't be differentiated again."""
    if serves(gate, up) and gate.dtype == up.dtype:
        return torch.ops.mini_moe.swiglu_product(gate, up)
    return reference.swiglu_product(gate, up)


def _save(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(ctx, grad):
    return torch.ops.mini_moe.swiglu_product_backward(grad, *ctx.saved_tensors)


register(
    "swiglu_product",
    lambda gate, up: gate.new_empty(gate.shape),
    lambda grad, gate, up: (gate.new_empty(gate.shape), up.new_empty(up.shape)),
    _differentiate,
    _save,
)
