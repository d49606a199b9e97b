"""`route`: the router's decisions from its logits, in one compiled pass, and their gradient."""

import torch
from jaxtyping import Float
from torch import Tensor

from mini_moe.config import ModelConfig
from mini_moe.ops import compiled, reference
from mini_moe.ops.compiled import serves_experts
from mini_moe.ops.reference import Routing

MOST_EXPERTS, MOST_CHOSEN = 1024, 32  # limits of the compiled gate


def route(
    logits: Float[Tensor, "tokens experts"],
    expert_bias: Float[Tensor, "experts"] | None,
    config: ModelConfig,
) -> Routing:
    """`reference.route`; the compiled form computes scores, choice and gates in one pass.

    Compiled on the CPU and on CUDA for fp32 logits of up to 1,024 experts, up to 32 of them chosen
    per token.
    """
    exact = logits.dtype == torch.float32 and (
        expert_bias is None or expert_bias.dtype == torch.float32
    )
    small = logits.shape[-1] <= MOST_EXPERTS and config.top_k <= MOST_CHOSEN
    if not (exact and small and serves_experts(logits, logits, logits.shape[-1])):
        return reference.route(logits, expert_bias, config)
    gates, expert_ids, scores, choice_scores = torch.ops.mini_moe.topk_gate(
        logits, expert_bias, *gate_settings(config)
    )
    return Routing(logits, scores, choice_scores, expert_ids, gates)


def gate_settings(config: ModelConfig) -> tuple:
    """Return the compiled gate's non-tensor arguments, in the operation's order."""
    return (
        *(config.top_k, config.n_expert_groups, config.top_k_groups),
        *(config.group_score == "top2_sum", config.score_function == "softmax"),
        *(config.norm_topk_prob, config.route_scale),
    )


def _topk_gate(logits: Tensor, bias: Tensor | None, top_k: int, *settings):
    tokens, wide = len(logits), torch.float32
    gates, ids = (logits.new_empty(tokens, top_k, dtype=t) for t in (wide, torch.long))
    return gates, ids, *(logits.new_empty(logits.shape, dtype=wide) for _ in range(2))


def _topk_gate_backward(grad_gates, grad_scores, logits: Tensor, *settings):
    return logits.new_empty(logits.shape)


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
    torch.library.register_fake("mini_moe::topk_gate", _topk_gate)
    torch.library.register_fake("mini_moe::topk_gate_backward", _topk_gate_backward)
    torch.library.register_autograd("mini_moe::topk_gate", gate_backward, setup_context=_save_gate)
    torch.library.register_autograd("mini_moe::topk_gate_backward", no_second_gate)
