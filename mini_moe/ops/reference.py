"""The definition of a mixture of experts: one expert at a time, in plain PyTorch.

Slow and obvious on purpose. Whatever is faster must agree with this.
"""

import torch
import torch.nn.functional as F
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor

from mini_moe.ops.sorting import sort_rows


def moe_experts(
    x: Float[Tensor, "tokens d_model"],
    expert_ids: Int[Tensor, "tokens top_k"],
    gates: Float[Tensor, "tokens top_k"],
    gate_up_proj: Float[Tensor, "experts 2 d_expert d_model"],
    down_proj: Float[Tensor, "experts d_model d_expert"],
) -> Float[Tensor, "tokens d_model"]:
    """Σ_k gates[t, k] · E_{expert_ids[t, k]}(x_t) with E(x) = W_down (silu(W_gate x) ⊙ W_up x).

    Source: DeepSeekMoE (arXiv 2401.06066) §2, equation 3; SwiGLU: arXiv 2002.05202 §2.
    """
    mixed = torch.zeros_like(x)
    for expert, (gate_up, down) in enumerate(zip(gate_up_proj, down_proj, strict=True)):
        weight = torch.where(expert_ids == expert, gates, 0).sum(dim=-1, keepdim=True)
        chosen = (expert_ids == expert).any(dim=-1, keepdim=True)
        gate, up = einsum(x, gate_up, "tokens d, two f d -> two tokens f")
        output = (F.silu(gate) * up) @ down.T
        mixed = mixed + torch.where(chosen, weight.to(x.dtype) * output, 0)
    return mixed


def moe_experts_with_saved(
    x: Tensor, expert_ids: Tensor, gates: Tensor, gate_up_proj: Tensor, down_proj: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """`moe_experts`, and what the registered operation also returns: pre-activations and order."""
    order = sort_rows(expert_ids, len(down_proj)).order
    expert_rows, tokens = expert_ids.reshape(-1)[order], order // expert_ids.shape[1]
    gate_up = [
        einsum(x[tokens[expert_rows == expert]], weights, "rows d, two f d -> rows two f")
        for expert, weights in enumerate(gate_up_proj)
    ]
    mixed = moe_experts(x, expert_ids, gates, gate_up_proj, down_proj)
    return mixed, torch.cat(gate_up).flatten(1), order


def moe_experts_backward(
    grad: Tensor,
    x: Tensor,
    expert_ids: Tensor,
    gates: Tensor,
    gate_up_proj: Tensor,
    down_proj: Tensor,
    gate_up: Tensor,
    order: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, gates, gate_up_proj and down_proj, by differentiating the definition."""
    with torch.enable_grad():
        leaves = [t.detach().requires_grad_() for t in (x, gates, gate_up_proj, down_proj)]
        mixed = moe_experts(leaves[0], expert_ids, *leaves[1:])
        gradients = torch.autograd.grad(mixed, leaves, grad, materialize_grads=True)
    return tuple(gradients)
