"""The compiled steps of the experts' layer one by one, with gradients, fakes and no hidden state.

`mini_moe::topk_gate`, `sort_rows`, `grouped_swiglu`, `grouped_gemm`, `grouped_wgrad` and `combine`
exist where the library is loaded (`describe()`); importing this module teaches torch their
shapes and derivatives. The layer itself is `experts.py` and needs none of them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from mini_moe.ops import compiled

OPERATIONS = (
    "topk_gate",
    "sort_rows",
    "grouped_swiglu",
    "grouped_gemm",
    "grouped_wgrad",
    "combine",
)


def _topk_gate(logits: Tensor, bias: Tensor | None, top_k: int, *settings):
    tokens, wide = len(logits), torch.float32
    gates, ids = (logits.new_empty(tokens, top_k, dtype=t) for t in (wide, torch.long))
    return gates, ids, logits.new_empty(logits.shape, dtype=wide)


def _topk_gate_backward(grad_gates, grad_scores, logits: Tensor, *settings):
    return logits.new_empty(logits.shape)


def _sort_rows(expert_ids: Tensor, n_experts: int):
    rows = expert_ids.new_empty(expert_ids.numel())
    place, counts = expert_ids.new_empty(expert_ids.shape), expert_ids.new_empty(n_experts)
    return rows, place, counts, expert_ids.new_empty(n_experts + 1)


def _grouped_swiglu(x: Tensor, token: Tensor, offsets: Tensor, gate_up_proj: Tensor, keep: bool):
    rows, d_expert = len(token), gate_up_proj.shape[2]
    return x.new_empty(rows, d_expert), x.new_empty(rows if keep else 0, 2 * d_expert)


def _grouped_gemm(a: Tensor, offsets: Tensor, b: Tensor, transposed: bool):
    return a.new_empty(len(a), b.shape[1 if transposed else 2])


def _grouped_wgrad(a: Tensor, b: Tensor, offsets: Tensor):
    return a.new_empty(len(offsets) - 1, a.shape[1], b.shape[1])


def _combine(rows: Tensor, place: Tensor, gates: Tensor | None):
    return rows.new_empty(len(place), rows.shape[1])


def on_cuda(tensor: Tensor) -> bool:
    """Whether the kernels of kernels/*.cu run, which leave out indices that name no row."""
    return tensor.is_cuda


def gate_backward(ctx, grad_gates, _grad_ids, grad_scores):
    """With q the chosen scores and S = Σ q + 1e-20: dq = scale · (dgate − Σ dgate · q / S) / S.

    Then dlogits = ds · s (1 − s) for sigmoid and s · (ds − Σ ds · s) for softmax. Groups and bias
    only choose: they have no gradient. One kernel does it, from the logits; on the CPU, where a
    gradient of the gradient is wanted, what torch can differentiate.
    """
    ids, logits, scores = ctx.saved_tensors
    softmax, normalise, scale = ctx.settings
    if on_cuda(logits) or not torch.is_grad_enabled():
        backward = torch.ops.mini_moe.topk_gate_backward
        return backward(grad_gates, grad_scores, logits, ids, *ctx.settings), *[None] * 8
    chosen = scores.gather(-1, ids)
    grad = torch.zeros_like(chosen) if grad_gates is None else scale * grad_gates
    if normalise:
        total = chosen.sum(-1, keepdim=True) + 1e-20
        grad = (grad - (grad * chosen).sum(-1, keepdim=True) / total) / total
    direct = torch.zeros_like(scores) if grad_scores is None else grad_scores
    grad = direct.scatter_add(-1, ids, grad)
    if softmax:
        grad = scores * (grad - (grad * scores).sum(-1, keepdim=True))
    else:
        grad = grad * scores * (1 - scores)
    return grad.to(ctx.dtype), *[None] * 8


def swiglu_backward(ctx, grad, _grad_saved):
    """With h = silu(g) ⊙ u: dg = dh ⊙ u ⊙ silu'(g), du = dh ⊙ silu(g), dW = [dg; du]ᵀ x."""
    if not ctx.keep:
        raise RuntimeError("keep=False was asked for, so grouped_swiglu can't be differentiated")
    x, token, offsets, weights, saved = ctx.saved_tensors
    gate, up = saved.chunk(2, dim=-1)
    grad_gate = torch.ops.aten.silu_backward(grad * up, gate)
    both = torch.cat((grad_gate, grad * F.silu(gate)), dim=-1)
    ops = torch.ops.mini_moe
    grad_rows = ops.grouped_gemm(both, offsets, weights.flatten(1, 2), False)
    grad_weights = ops.grouped_wgrad(both, rows_at(x, token), offsets).view(weights.shape)
    return added_at(x, token, grad_rows), None, None, grad_weights, None


def gemm_backward(ctx, grad):
    """Of a row: its gradient times the matrix, turned the other way; of a matrix: rows × rows."""
    a, offsets, b = ctx.saved_tensors
    ops, pair = torch.ops.mini_moe, (grad, a) if ctx.transposed else (a, grad)
    grad_a = ops.grouped_gemm(grad, offsets, b, not ctx.transposed)
    return grad_a, None, ops.grouped_wgrad(*pair, offsets), None


def wgrad_backward(ctx, grad):
    """out[e] = a_eᵀ b_e is linear in both."""
    a, b, offsets = ctx.saved_tensors
    ops = torch.ops.mini_moe
    grad_a = ops.grouped_gemm(b, offsets, grad, True)
    return grad_a, ops.grouped_gemm(a, offsets, grad, False), None


def combine_backward(ctx, grad):
    """A row gets its token's gradient times its gate; a gate ⟨gradient, row⟩."""
    rows, place, gates = ctx.saved_tensors
    spread = grad.unsqueeze(1).expand(-1, place.shape[1], -1)
    weighted = spread if gates is None else gates.unsqueeze(-1).to(grad.dtype) * spread
    grad_rows = added_at(rows, place.flatten(), weighted.flatten(0, 1))
    if gates is None:
        return grad_rows, None, None
    return grad_rows, None, (rows_at(rows, place) * spread).float().sum(-1)


def rows_at(values: Tensor, index: Tensor) -> Tensor:
    """values[index]; on CUDA, where nobody has looked at the indices, zero for rows that aren't."""
    if not on_cuda(values):
        return values[index]
    inside, index = inside_of(values, index)
    found = values.index_select(0, index.flatten()).unflatten(0, index.shape)
    return torch.where(inside.unsqueeze(-1), found, 0)


def added_at(like: Tensor, index: Tensor, rows: Tensor) -> Tensor:
    """Zeros like `like`, and each row added where its index says, in the same order every time."""
    zeros = torch.zeros_like(like)
    if not on_cuda(like):
        return zeros.index_add(0, index, rows)
    inside, index = inside_of(like, index)
    rows = torch.where(inside.unsqueeze(-1), rows, 0)
    return zeros.index_put((index,), rows, accumulate=True)  # sorts; index_add uses atomics


def inside_of(values: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Which indices name a row, and the indices with 0 in place of the others."""
    inside = (index >= 0) & (index < len(values))
    return inside, torch.where(inside, index, 0)


def no_second_gate(ctx, grad):
    """The kernel's result is not a graph."""
    raise RuntimeError("topk_gate can't be differentiated twice on CUDA; on the CPU it can")


def _save_gate(ctx, inputs, output) -> None:
    logits, (_, ids, scores) = inputs[0], output
    ctx.dtype, ctx.settings = logits.dtype, inputs[6:]
    ctx.mark_non_differentiable(ids)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(ids, logits, scores)


def _save_swiglu(ctx, inputs, output) -> None:
    *tensors, ctx.keep = inputs
    ctx.save_for_backward(*tensors, output[1])


def _save_gemm(ctx, inputs, output) -> None:
    *tensors, ctx.transposed = inputs
    ctx.save_for_backward(*tensors)


def _save(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


DERIVATIVES = {
    "topk_gate": (gate_backward, _save_gate),
    "grouped_swiglu": (swiglu_backward, _save_swiglu),
    "grouped_gemm": (gemm_backward, _save_gemm),
    "grouped_wgrad": (wgrad_backward, _save),
    "combine": (combine_backward, _save),
}

if not compiled.WHY_NOT:
    for name in OPERATIONS:
        torch.library.register_fake(f"mini_moe::{name}", globals()[f"_{name}"])
    for name, (derivative, save) in DERIVATIVES.items():
        torch.library.register_autograd(f"mini_moe::{name}", derivative, setup_context=save)
    torch.library.register_fake("mini_moe::topk_gate_backward", _topk_gate_backward)
    torch.library.register_autograd("mini_moe::topk_gate_backward", no_second_gate)
