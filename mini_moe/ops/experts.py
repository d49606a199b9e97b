"""The registered operation `mini_moe::moe_experts` and its gradient.

The default is the definition in `reference.py`; `compiled.py` serves CPU and CUDA,
`sorted_experts.py` what the compiled kernels don't. `KERNEL.set_kernel_enabled(device, False)`
brings the definition back, to compare.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mini_moe.ops import compiled, reference, sorted_experts
from mini_moe.ops.precision import autocast_dtype

FORWARD_SCHEMA = (
    "(Tensor x, Tensor expert_ids, Tensor gates, Tensor gate_up_proj, Tensor down_proj,"
    " bool keep=True) -> (Tensor, Tensor)"
)
BACKWARD_SCHEMA = (
    "(Tensor grad, Tensor x, Tensor expert_ids, Tensor gates, Tensor gate_up_proj,"
    " Tensor down_proj, Tensor saved) -> (Tensor, Tensor, Tensor, Tensor)"
)
DEVICES = ("cpu", "cuda")
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def _reference_forward(x, expert_ids, gates, gate_up_proj, down_proj, keep=True):
    saved = x.new_zeros(saved_shape(x, expert_ids, gates, gate_up_proj, keep))
    return reference.moe_experts(x, expert_ids, gates, gate_up_proj, down_proj), saved


def saved_shape(x, expert_ids, gates, gate_up_proj, keep) -> tuple[int, int]:
    """Shape of what the forward keeps for the backward, known before tokens are routed."""
    experts, _, d_expert, _ = gate_up_proj.shape
    rows = expert_ids.numel()
    if not compiled.serves_experts(x, gates, experts):
        rows = sorted_experts.most_rows(rows, experts)
    return rows if keep else 0, 2 * d_expert


KERNEL = torch.library.custom_op(
    "mini_moe::moe_experts", _reference_forward, mutates_args=(), schema=FORWARD_SCHEMA
)
BACKWARD_KERNEL = torch.library.custom_op(
    "mini_moe::moe_experts_backward",
    reference.moe_experts_backward,
    mutates_args=(),
    schema=BACKWARD_SCHEMA,
)
for device in DEVICES:
    KERNEL.register_kernel(device, compiled.forward)
    BACKWARD_KERNEL.register_kernel(device, compiled.backward)


def moe_experts(
    x: Float[Tensor, "tokens d_model"],
    expert_ids: Int[Tensor, "tokens top_k"],
    gates: Float[Tensor, "tokens top_k"],
    gate_up_proj: Float[Tensor, "experts 2 d_expert d_model"],
    down_proj: Float[Tensor, "experts d_model d_expert"],
) -> Float[Tensor, "tokens d_model"]:
    """Send each token through its experts and add their outputs, weighted by the gates.

    Defined by `reference.moe_experts`. Under autocast the products run in its type, and gates are
    rounded to it where they multiply. Gradients reach x, gates and both weights; they can't be
    differentiated again.

    Raises: ValueError when shapes don't fit each other or an expert id is out of range.
    """
    if dtype := autocast_dtype(x):
        x, gate_up_proj, down_proj = x.to(dtype), gate_up_proj.to(dtype), down_proj.to(dtype)
    inputs = (x, gates, gate_up_proj, down_proj)
    keep = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)
    fits = expert_ids.dtype in INTEGERS and gate_up_proj.ndim == 4
    served = fits and compiled.serves_experts(x, gates, len(gate_up_proj))
    if not keep and served and not torch.compiler.is_compiling():
        # Past torch's bookkeeping, which takes as long as a token's products; it checks as well.
        arguments = (x, expert_ids.long(), gates, gate_up_proj, down_proj, False)
        with compiled.named_errors():
            return torch.ops.mini_moe.experts_forward(*arguments)[0]
    check_shapes(x, expert_ids, gates, gate_up_proj, down_proj)
    if compiled.carries_tangents():
        return reference.moe_experts(x, expert_ids, gates, gate_up_proj, down_proj)
    return KERNEL(x, expert_ids, gates, gate_up_proj, down_proj, keep)[0]


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


@KERNEL.register_fake
def _shapes(x, expert_ids, gates, gate_up_proj, down_proj, keep=True):
    shape = saved_shape(x, expert_ids, gates, gate_up_proj, keep)
    return x.new_empty(x.shape), x.new_empty(shape)


if not compiled.WHY_NOT:
    torch.library.register_fake("mini_moe::experts_forward", _shapes)


@BACKWARD_KERNEL.register_fake
def _(grad, x, expert_ids, gates, gate_up_proj, down_proj, saved):
    return tuple(t.new_empty(t.shape) for t in (x, gates, gate_up_proj, down_proj))


def _save(ctx, inputs, output) -> None:
    *tensors, ctx.keep = inputs
    ctx.save_for_backward(*tensors, output[1])
    ctx.set_materialize_grads(False)


def _differentiate(ctx, grad, _grad_saved):
    if grad is None:
        return None, None, None, None, None, None
    if not ctx.keep:
        raise RuntimeError("keep=False was asked for, so moe_experts can't be differentiated")
    grad_x, grad_gates, grad_gate_up, grad_down = BACKWARD_KERNEL(
        grad.contiguous(), *ctx.saved_tensors
    )
    return grad_x, None, grad_gates, grad_gate_up, grad_down, None


KERNEL.register_autograd(_differentiate, setup_context=_save)
