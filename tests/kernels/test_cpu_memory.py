"""Memory of the compiled CPU kernels: released on request, and a clear error if there is none."""

import subprocess
import sys

import psutil
import pytest
import torch

from mini_moe.ops import compiled
from tests.kernels.cpu import needs_library, threads

pytestmark = needs_library
LARGE = (64, 1024, 2048)  # tokens, d_model, d_expert: some 30 MB of packed weights per thread


def run_experts(tokens: int, d_model: int, d_expert: int) -> torch.Tensor:
    """Run the forward pass of a layer with one expert."""
    x, ids, gates = (
        torch.ones(tokens, d_model),
        torch.zeros(tokens, 1).long(),
        torch.ones(tokens, 1),
    )
    gate_up, down = torch.ones(1, 2, d_expert, d_model), torch.ones(1, d_model, d_expert)
    return torch.ops.mini_moe.experts_forward(x, ids, gates, gate_up, down, False)[0]


def resident() -> int:
    return psutil.Process().memory_info().rss


@pytest.mark.parametrize("number", [1, 2])
def test_scratch_memory_is_given_back_when_asked(number):
    with threads(number):
        compiled.release_memory()
        before = run_experts(*LARGE)
        kept = resident()
        released = compiled.release_memory()
        assert released > 8 << 20
        assert kept - resident() > released // 2
        assert compiled.release_memory() == 0
        assert run_experts(*LARGE).equal(before)


def test_nothing_is_given_back_without_the_library(monkeypatch):
    monkeypatch.setattr(compiled, "WHY_NOT", "not built here")
    assert compiled.release_memory() == 0


def test_a_thread_without_memory_says_so_and_the_process_lives():
    code = f"""
import resource
import torch
from tests.kernels.test_cpu_memory import run_experts
torch.set_num_threads(2)
run_experts(8, 16, 16)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
tokens, d_model, d_expert = {LARGE}
weights = 3 * 4 * d_model * d_expert
resource.setrlimit(resource.RLIMIT_AS, (used + weights + (12 << 20), -1))
try:
    run_experts(tokens, d_model, d_expert)
except RuntimeError as error:
    print(str(error).splitlines()[0])
resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
print(run_experts(8, 16, 16).shape)
"""
    if not sys.platform.startswith("linux"):
        pytest.skip("limits of memory are Linux's")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, last = done.stdout.splitlines()
    assert first.startswith("the compiled kernels have no memory: a thread's scratch buffer of")
    assert last == "torch.Size([8, 16])"
