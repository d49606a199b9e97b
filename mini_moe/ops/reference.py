"""The definition of a mixture of experts: one expert at a time, in plain PyTorch.

Slow and obvious on purpose. Whatever is faster must agree with this.
"""

import torch
import torch.nn.functional as F
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor


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


def moe_experts_backward(
    grad: Tensor,
    x: Tensor,
    expert_ids: Tensor,
    gates: Tensor,
    gate_up_proj: Tensor,
    down_proj: Tensor,
    saved: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, gates, gate_up_proj and down_proj, by differentiating the definition.

    `saved` is what a faster forward keeps for its own backward; the definition needs nothing.
    """
    with torch.enable_grad():
        leaves = [t.detach().requires_grad_() for t in (x, gates, gate_up_proj, down_proj)]
        mixed = moe_experts(leaves[0], expert_ids, *leaves[1:])
        gradients = torch.autograd.grad(mixed, leaves, grad, materialize_grads=True)
    return tuple(gradients)
