"""`mini_moe::rms_norm` and `add_rms_norm`: a norm, and the sum before it, in one pass."""

import torch
from jaxtyping import Float
from torch import Tensor

from mini_moe.ops import compiled
from mini_moe.ops.compiled import serves
from mini_moe.ops.precision import autocast_dtype
from mini_moe.ops.registration import register


def rms_norm(
    x: Float[Tensor, "*batch width"], weight: Float[Tensor, "width"], eps: float
) -> Float[Tensor, "*batch width"]:
    """x / √(mean(x²) + eps), times weight; the division in fp32 whatever x is."""
    wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
    normed = wide * torch.rsqrt(wide.pow(2).mean(dim=-1, keepdim=True) + eps)
    return weight * normed.to(x.dtype)


def normalise(
    x: Float[Tensor, "*batch width"], weight: Float[Tensor, "width"], eps: float
) -> Float[Tensor, "*batch width"]:
    """`rms_norm`; under autocast the result has its type, so that projections don't round it again.

    Compiled where that is possible; its gradients can't be differentiated again.
    """
    dtype = autocast_dtype(x) or torch.promote_types(x.dtype, weight.dtype)
    if weight.shape == x.shape[-1:] and serves(x, weight) and dtype in compiled.DTYPES:
        rows, narrow = x.reshape(-1, x.shape[-1]), dtype == torch.bfloat16
        return torch.ops.mini_moe.rms_norm(rows, weight, eps, narrow)[0].view(x.shape)
    return rms_norm(x, weight, eps).to(dtype)


def add_and_normalise(
    x: Float[Tensor, "*batch width"],
    added: Float[Tensor, "*batch width"],
    weight: Float[Tensor, "width"],
    eps: float,
) -> tuple[Float[Tensor, "*batch width"], Float[Tensor, "*batch width"]]:
    """x + added, and `normalise` of it: the sum is in the cache when its norm is taken.

    Backward, the gradient that reaches the sum past the norm is added in the same pass.
    """
    dtype = autocast_dtype(x) or torch.promote_types(x.dtype, weight.dtype)
    alike = x.shape == added.shape and weight.shape == x.shape[-1:]
    keeps_type = torch.promote_types(x.dtype, added.dtype) == x.dtype
    if alike and keeps_type and serves(x, added, weight) and dtype in compiled.DTYPES:
        rows, more = x.reshape(-1, x.shape[-1]), added.reshape(-1, x.shape[-1])
        narrow = dtype == torch.bfloat16
        total, y, _ = torch.ops.mini_moe.add_rms_norm(rows, more, weight, eps, narrow)
        return total.view(x.shape), y.view(x.shape)
    total = x + added
    return total, normalise(total, weight, eps)


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


def _add_forward(x, added, weight, eps, narrow):
    return x.new_empty(x.shape), *_forward(x, weight, eps, narrow)


def _add_backward(grad_total, grad, total, weight, shares, narrow):
    grad_x, grad_weight = _backward(grad, total, weight, shares)
    dtype = torch.bfloat16 if narrow else torch.float32
    return grad_x, grad_x.new_empty(grad_x.shape, dtype=dtype), grad_weight


def _add_save(ctx, inputs, output) -> None:
    _, added, weight, *_ = inputs
    total, _, shares = output
    ctx.mark_non_differentiable(shares)
    ctx.narrow = added.dtype == torch.bfloat16
    ctx.save_for_backward(total, weight, shares)


def _add_differentiate(ctx, grad_total, grad, _grad_shares):
    _, weight, _ = ctx.saved_tensors
    backward = torch.ops.mini_moe.add_rms_norm_backward
    grad_x, grad_added, grad_weight = backward(grad_total, grad, *ctx.saved_tensors, ctx.narrow)
    return grad_x, grad_added, grad_weight.to(weight.dtype), None, None


register("rms_norm", _forward, _backward, _differentiate, _save)
register("add_rms_norm", _add_forward, _add_backward, _add_differentiate, _add_save)
