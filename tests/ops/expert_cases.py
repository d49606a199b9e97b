"""Inputs for the experts operation, and the simplest oracle: one token at a time."""

from typing import NamedTuple

import torch
from torch import Tensor

from mini_moe.ops import reference


class Case(NamedTuple):
    """The arguments of `moe_experts`, in order."""

    x: Tensor
    expert_ids: Tensor
    gates: Tensor
    gate_up_proj: Tensor
    down_proj: Tensor

    @property
    def leaves(self) -> list[Tensor]:
        """The tensors that gradients reach."""
        return [self.x, self.gates, self.gate_up_proj, self.down_proj]

    def copy(self, dtype: torch.dtype | None = None) -> "Case":
        """Return the same numbers as fresh leaves."""
        return Case(
            *(
                t.clone() if t is self.expert_ids else t.detach().to(dtype).clone().requires_grad_()
                for t in self
            )
        )


def random_case(
    tokens: int,
    top_k: int,
    experts: int,
    d_model: int = 12,
    d_expert: int = 10,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Case:
    """Draw a random case; each token's experts are distinct, as after top-k."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        values = torch.randn(*shape, generator=draw, dtype=torch.float64)
        return (values / shape[-1] ** 0.5).to(dtype).requires_grad_()

    ids = torch.rand(tokens, experts, generator=draw).argsort(dim=-1)[:, :top_k]
    gates = torch.rand(tokens, top_k, generator=draw, dtype=torch.float64)
    return Case(
        normal(tokens, d_model),
        ids,
        gates.to(dtype).requires_grad_(),
        normal(experts, 2, d_expert, d_model),
        normal(experts, d_model, d_expert),
    )


def with_ids(case: Case, expert_ids: Tensor) -> Case:
    """Return the same case, routed differently."""
    return case._replace(expert_ids=expert_ids)


def dumb_forward(case: Case) -> Tensor:
    """Compute token by token, choice by choice, using only the paper's formula."""
    outputs = []
    for t, token in enumerate(case.x):
        mixed = torch.zeros_like(token)
        for choice, expert in enumerate(case.expert_ids[t].tolist()):
            gate_proj, up_proj = case.gate_up_proj[expert]
            gate, up = gate_proj @ token, up_proj @ token
            hidden = gate / (1 + torch.exp(-gate)) * up
            mixed = mixed + case.gates[t, choice] * (case.down_proj[expert] @ hidden)
        outputs.append(mixed)
    return torch.stack(outputs) if outputs else torch.zeros_like(case.x)


def exact(case: Case, grad: Tensor) -> list[Tensor]:
    """Return the definition's output and its four gradients, in float64 on the CPU."""
    wide = Case(*(tensor.cpu() for tensor in case)).copy(torch.float64)
    output = reference.moe_experts(*wide)
    grads = torch.autograd.grad(output, wide.leaves, grad.cpu().double(), materialize_grads=True)
    return [output.detach(), *grads]
