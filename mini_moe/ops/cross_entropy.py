"""`mini_moe::cross_entropy`: the loss from logits, without storing probabilities."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mini_moe.ops import compiled, reference
from mini_moe.ops.compiled import serves
from mini_moe.ops.registration import register


def cross_entropy(
    logits: Float[Tensor, "tokens vocab"], targets: Int[Tensor, "tokens"]
) -> Float[Tensor, ""]:
    """−ln softmax(logits)[target], averaged over all tokens, in fp32.

    The compiled kernel keeps the logits and two numbers per token for the backward pass, and
    writes the gradient in the dtype of the logits; it can't be differentiated again.
    Raises: ValueError (IndexError without the kernel) if a target is out of range.
    """
    if serves(logits):
        with compiled.named_errors():
            return torch.ops.mini_moe.cross_entropy(logits, targets)[0].mean()
    return reference.cross_entropy(logits, targets)


def _forward(logits, targets):
    rows = logits.new_empty(len(logits), dtype=torch.float32)
    return rows, logits.new_empty(len(logits), 2, dtype=torch.float32)


def _backward(grad, logits, targets, row_sums):
    return logits.new_empty(logits.shape)


def _save(ctx, inputs, output) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)  # no zeros for the second output
    ctx.save_for_backward(*inputs, output[1])


def _differentiate(ctx, grad, _grad_row_sums):
    return torch.ops.mini_moe.cross_entropy_backward(grad, *ctx.saved_tensors), None


register("cross_entropy", _forward, _backward, _differentiate, _save)
