"""Shared by the GPU tests: skip without a GPU, poisoned memory, cases on the GPU, the oracle.

Without a GPU, tests/kernels/test_rehearsal.py runs most tests with the same bindings and kernels on
the CPU; DEVICE is then "cpu".
"""

import os

import pytest
import torch
from torch import Tensor

from mini_moe.ops import compiled, moe_experts
from tests.helpers import TOLERANCE, relative_error
from tests.ops.expert_cases import Case, exact, random_case, with_ids

DTYPES = [torch.float32, torch.bfloat16]
LOADS = [0, 1, 63, 64, 65, 127, 129]  # rows per expert: none, one, and around tile sizes

REHEARSAL = os.environ.get("MINI_MOE_REHEARSAL", "")  # the library of kernels on the CPU
DEVICE = "cpu" if REHEARSAL else "cuda"

only_gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        torch.cuda.is_available() and bool(compiled.CUDA_WHY_NOT),
        reason=f"no CUDA kernels: {compiled.CUDA_WHY_NOT}",
    ),
]
needs_gpu = [] if REHEARSAL else only_gpu  # or the rehearsal
no_rehearsal = pytest.mark.skipif(bool(REHEARSAL), reason="needs a GPU, not a rehearsal")


def poison() -> None:
    """Leave NaN in the memory that torch's allocator returns next, in small and large blocks."""
    sizes = [] if REHEARSAL else [1 << power for power in range(9, 24)]
    blocks = [
        torch.full((size // 4,), torch.nan, device=DEVICE) for size in sizes for _ in range(4)
    ]
    del blocks


def on_gpu(case: Case) -> Case:
    """Return the same values as new leaf tensors on the GPU."""
    tensors = [tensor.detach().to(DEVICE, copy=True) for tensor in case]
    return Case(*(t.requires_grad_(t.is_floating_point()) for t in tensors))


def loaded_case(
    loads: list[int], top_k: int = 1, dtype=torch.float32, d_model: int = 64, d_expert: int = 48
) -> Case:
    """Choose expert e loads[e] times, with tokens in mixed order."""
    experts = torch.arange(len(loads)).repeat_interleave(torch.tensor(loads))
    draw = torch.Generator().manual_seed(1)
    experts = experts[torch.randperm(len(experts), generator=draw)]
    tokens = len(experts) // top_k
    ids = experts[: tokens * top_k].view(tokens, top_k)
    return with_ids(random_case(tokens, 1, len(loads), d_model, d_expert, dtype), ids)._replace(
        gates=torch.rand(tokens, top_k, generator=draw).to(dtype).requires_grad_()
    )


def zipf_ids(tokens: int, top_k: int, experts: int) -> Tensor:
    """Choose distinct experts per token, with weight 1 / (e + 1)², so late ones stay idle."""
    weights = torch.arange(1.0, experts + 1) ** -2
    draw = torch.Generator().manual_seed(3)
    return torch.multinomial(weights.expand(tokens, -1), top_k, generator=draw)


def random_grad(case: Case) -> Tensor:
    """Return a gradient of the output, on the CPU."""
    draw = torch.Generator().manual_seed(2)
    return torch.randn(case.x.shape, generator=draw).to(case.x.dtype)


def run(case: Case, grad: Tensor) -> list[Tensor]:
    """Return the output and the four gradients on the GPU, starting from poisoned memory."""
    here = on_gpu(case)
    grad = grad.to(DEVICE)
    poison()
    output = moe_experts(*here)
    poison()
    return [output.detach(), *torch.autograd.grad(output, here.leaves, grad)]


NAMES = ("output", "grad x", "grad gates", "grad gate_up_proj", "grad down_proj")


def assert_exact(case: Case) -> list[Tensor]:
    """Assert that the GPU's output and gradients match the definition within tolerance."""
    grad = random_grad(case)
    found = run(case, grad)
    for name, ours, theirs in zip(NAMES, found, exact(case, grad), strict=True):
        assert ours.shape == theirs.shape, name
        error = relative_error(ours.cpu(), theirs)
        assert error <= TOLERANCE[case.x.dtype], f"{name}: {error}"
    return found


def assert_same_bits(one: list[Tensor], two: list[Tensor]) -> None:
    """Assert equality to the last bit."""
    for name, ours, theirs in zip(NAMES, one, two, strict=True):
        assert torch.equal(ours, theirs), name
