"""`mini_moe::rms_norm`: RMSNorm in one pass."""

import torch
from jaxtyping import Float
from torch import Tensor

from mini_moe.ops import compiled
from mini_moe.ops.compiled import serves
from mini_moe.ops.context import autocast_dtype
from mini_moe.ops.reference import rms_norm
from mini_moe.ops.registration import register


def normalise(
    x: Float[Tensor, "*batch width"],
    weight: Float[Tensor, "width"],
    eps: float,
    dtype: torch.dtype | None = None,
) -> Float[Tensor, "*batch width"]:
    """`reference.rms_norm` in `dtype`: by default autocast's, so projections needn't round again.

    Without autocast, the default is the wider dtype of x and weight. The gradients of the compiled
    form can't be differentiated again.
    """
    dtype = dtype or autocast_dtype(x) or torch.promote_types(x.dtype, weight.dtype)
    if weight.shape == x.shape[-1:] and serves(x, weight) and dtype in compiled.DTYPES:
        rows, narrow = x.reshape(-1, x.shape[-1]), dtype == torch.bfloat16
        return torch.ops.mini_moe.rms_norm(rows, weight, eps, narrow)[0].view(x.shape)
    return rms_norm(x, weight, eps).to(dtype)


def _forward(x, weight, eps, narrow):
    y = x.new_empty(x.shape, dtype=torch.bfloat16 if narrow else torch.float32)
    return y, x.new_empty(len(x), dtype=torch.float32)


def _backward(grad, x, weight, shares):
    return x.new_empty(x.shape), weight.new_empty(weight.shape, dtype=torch.float32)


def _save(ctx, inputs, output) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)  # no zeros for the second output
    ctx.save_for_backward(*inputs[:2], output[1])


def _differentiate(ctx, grad, _grad_shares):
    x, weight, shares = ctx.saved_tensors
    grad_x, grad_weight = torch.ops.mini_moe.rms_norm_backward(grad, x, weight, shares)
    return grad_x, grad_weight.to(weight.dtype), None, None


register("rms_norm", _forward, _backward, _differentiate, _save)
