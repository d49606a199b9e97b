"""The compiled stages of the expert layer as separate operations, without hidden state.

`mini_moe::topk_gate`, `sort_rows`, `grouped_swiglu`, `grouped_gemm`, `grouped_wgrad` and `combine`
exist if the library is loaded (`ops.describe()`); importing this module registers their shapes and
the gate's derivative with torch. The products have no derivative of their own: the layer in
`experts.py` does, and it uses none of these operations.
"""

import torch
from torch import Tensor

from mini_moe.ops import compiled

PRODUCTS = ("grouped_swiglu", "grouped_gemm", "grouped_wgrad", "combine")
OPERATIONS = ("topk_gate", "sort_rows", *PRODUCTS)


def _topk_gate(logits: Tensor, bias: Tensor | None, top_k: int, *settings):
    tokens, wide = len(logits), torch.float32
    gates, ids = (logits.new_empty(tokens, top_k, dtype=t) for t in (wide, torch.long))
    return gates, ids, *(logits.new_empty(logits.shape, dtype=wide) for _ in range(2))


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
    """Return whether the kernels in kernels/*.cu run; they skip indices that refer to no row."""
    return tensor.is_cuda


def gate_backward(ctx, grad_gates, _grad_ids, grad_scores, _grad_choice_scores):
    """With q the chosen scores and S = Σ q + 1e-20: dq = scale · (dgate − Σ dgate · q / S) / S.

    Then dlogits = ds · s (1 − s) for sigmoid and s · (ds − Σ ds · s) for softmax. Groups and bias
    only affect the choice, so they have no gradient. One kernel computes this from the logits; if
    the CPU needs a second derivative, operations that torch can differentiate do.
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


def no_gradient(ctx, *gradients):
    """Raise RuntimeError, since torch would only warn and drop the gradients."""
    raise RuntimeError("the stages of the layer can't be differentiated; moe_experts can")


def no_second_gate(ctx, grad):
    """Raise RuntimeError, since the kernel's result has no graph."""
    raise RuntimeError("topk_gate can't be differentiated twice on CUDA; on the CPU it can")


def _save_gate(ctx, inputs, output) -> None:
    logits, (_, ids, scores, choice_scores) = inputs[0], output
    ctx.dtype, ctx.settings = logits.dtype, inputs[6:]
    ctx.mark_non_differentiable(ids, choice_scores)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(ids, logits, scores)


if not compiled.WHY_NOT:
    for name in OPERATIONS:
        torch.library.register_fake(f"mini_moe::{name}", globals()[f"_{name}"])
    for name in PRODUCTS:
        torch.library.register_autograd(f"mini_moe::{name}", no_gradient)
    torch.library.register_autograd("mini_moe::topk_gate", gate_backward, setup_context=_save_gate)
    torch.library.register_fake("mini_moe::topk_gate_backward", _topk_gate_backward)
    torch.library.register_autograd("mini_moe::topk_gate_backward", no_second_gate)
