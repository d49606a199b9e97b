"""`moe_experts`: the routed experts of one layer, in the form the switch allows."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mini_moe.ops import compiled, reference
from mini_moe.ops.context import allowed_form, autocast_dtype
from mini_moe.ops.registration import register
from mini_moe.ops.sorted_experts import sorted_experts
from mini_moe.ops.sorting import check_ids

INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def moe_experts(
    x: Float[Tensor, "tokens d_model"],
    expert_ids: Int[Tensor, "tokens top_k"],
    gates: Float[Tensor, "tokens top_k"],
    gate_up_proj: Float[Tensor, "experts 2 d_expert d_model"],
    down_proj: Float[Tensor, "experts d_model d_expert"],
) -> Float[Tensor, "tokens d_model"]:
    """Send each token through its experts and add their outputs, weighted by the gates.

    Defined by `reference.moe_experts`. Under autocast, the matrix products run in its dtype, and
    the gates are rounded to it before they are applied. Gradients reach x, the gates and both
    weights; only those of the definition can be differentiated again.

    Raises: ValueError if shapes don't match or an expert id is out of range.
    """
    if dtype := autocast_dtype(x):
        x, gate_up_proj, down_proj = x.to(dtype), gate_up_proj.to(dtype), down_proj.to(dtype)
    inputs = (x, gates, gate_up_proj, down_proj)
    keep = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)
    arguments = (x, expert_ids, *inputs[1:])
    fits = expert_ids.dtype in INTEGERS and gate_up_proj.ndim == 4
    if fits and compiled.serves_experts(x, gates, len(gate_up_proj)):
        with compiled.named_errors():  # the library checks the arguments
            return torch.ops.mini_moe.experts_forward(x, expert_ids.long(), *inputs[1:], keep)[0]
    check_shapes(*arguments)
    if allowed_form() == "definition" or compiled.carries_tangents():
        check_ids(expert_ids, len(gate_up_proj))
        return reference.moe_experts(*arguments)
    return sorted_experts(*arguments, keep)[0]


def check_shapes(
    x: Tensor, expert_ids: Tensor, gates: Tensor, gate_up_proj: Tensor, down_proj: Tensor
) -> None:
    """Raise ValueError naming the first argument whose shape does not fit the others."""
    if gate_up_proj.ndim != 4 or gate_up_proj.shape[1] != 2:
        raise ValueError(
            "gate_up_proj: [experts, 2, d_expert, d_model] expected, "
            f"got {list(gate_up_proj.shape)}"
        )
    if expert_ids.ndim != 2 or not expert_ids.shape[1] or expert_ids.dtype not in INTEGERS:
        raise ValueError(
            "expert_ids: integers [tokens, top_k] expected, "
            f"got {expert_ids.dtype} {list(expert_ids.shape)}"
        )
    experts, _, d_expert, d_model = gate_up_proj.shape
    expected = {
        "x": (x, [len(x), d_model]),
        "expert_ids": (expert_ids, [len(x), expert_ids.shape[-1]]),
        "gates": (gates, list(expert_ids.shape)),
        "down_proj": (down_proj, [experts, d_model, d_expert]),
    }
    for name, (tensor, shape) in expected.items():
        if list(tensor.shape) != shape:
            raise ValueError(f"{name}: {shape} expected, got {list(tensor.shape)}")


def _shapes(x, expert_ids, gates, gate_up_proj, down_proj, keep):
    rows = expert_ids.numel() if keep else 0
    return x.new_empty(x.shape), x.new_empty(rows, 2 * gate_up_proj.shape[2])


def _gradient_shapes(grad, x, expert_ids, gates, gate_up_proj, down_proj, saved):
    return tuple(t.new_empty(t.shape) for t in (x, gates, gate_up_proj, down_proj))


def _save(ctx, inputs, output) -> None:
    *tensors, ctx.keep = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors, output[1])


def _differentiate(ctx, grad, _grad_saved):
    if not ctx.keep:
        raise RuntimeError("moe_experts ran with keep=False, so it can't be differentiated")
    grads = torch.ops.mini_moe.experts_backward(grad.contiguous(), *ctx.saved_tensors)
    return grads[0], None, *grads[1:], None


register(
    "experts_forward", _shapes, _gradient_shapes, _differentiate, _save, backward="experts_backward"
)
