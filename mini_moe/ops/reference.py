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
    """Gradients of x, gates, gate_up_proj and down_proj: the chain rule, one expert at a time.

    With g = W_gate x, u = W_up x, h = silu(g) ⊙ u, y = W_down h, and the output Σ gate · y:
    dgate = ⟨dout, y⟩, dy = gate · dout, dW_down = dy hᵀ, dh = W_downᵀ dy, du = dh ⊙ silu(g),
    dg = dh ⊙ u ⊙ silu'(g), dW = [dg; du] xᵀ, dx = W_gateᵀ dg + W_upᵀ du.
    `saved` is what a faster forward keeps for its own backward; the definition needs nothing.
    """
    grad_x, grad_gates = torch.zeros_like(x), torch.zeros_like(gates)
    grad_gate_up, grad_down = torch.zeros_like(gate_up_proj), torch.zeros_like(down_proj)
    for expert, (gate_up, down) in enumerate(zip(gate_up_proj, down_proj, strict=True)):
        here = expert_ids == expert
        weight = torch.where(here, gates, 0).sum(dim=-1, keepdim=True).to(x.dtype)
        gate, up = einsum(x, gate_up, "tokens d, two f d -> two tokens f")
        sigmoid = gate.sigmoid()
        hidden = gate * sigmoid * up
        grad_gate_here = (grad * (hidden @ down.T)).sum(dim=-1, keepdim=True)
        grad_gates += torch.where(here, grad_gate_here, 0).to(gates.dtype)

        grad_output = torch.where(here.any(dim=-1, keepdim=True), weight * grad, 0)
        grad_down[expert] = grad_output.T @ hidden
        grad_hidden = grad_output @ down
        grad_up = grad_hidden * gate * sigmoid
        grad_gate = grad_hidden * up * sigmoid * (1 + gate * (1 - sigmoid))
        both = torch.stack((grad_gate, grad_up))
        grad_gate_up[expert] = einsum(both, x, "two tokens f, tokens d -> two f d")
        grad_x += einsum(both, gate_up, "two tokens f, two f d -> tokens d")
    return grad_x, grad_gates, grad_gate_up, grad_down
