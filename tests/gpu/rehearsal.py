"""A pytest plugin: run the GPU tests with the CUDA bindings and kernels compiled for the CPU.

    MINI_MOE_REHEARSAL=LIBRARY python -m pytest -p tests.gpu.rehearsal tests/gpu

tests/kernels/test_rehearsal.py builds the library.
"""

import importlib
import os

import torch

os.environ["MINI_MOE_KERNELS"] = "off"  # the usual library stays where it is
from mini_moe.ops import compiled, experts, gate, stages  # noqa: E402


def serves_experts(x, gates, n_experts) -> bool:
    """Behave as on CUDA; CPU-only operations stay with PyTorch, because WHY_NOT is set."""
    fits = x.dtype in compiled.DTYPES and gates.dtype in compiled.DTYPES
    return fits and n_experts <= compiled.MOST_EXPERTS_ON_CUDA


off = compiled.WHY_NOT
torch.ops.load_library(os.environ["MINI_MOE_REHEARSAL"])
compiled.WHY_NOT = compiled.CUDA_WHY_NOT = ""
importlib.reload(stages)
importlib.reload(experts)
importlib.reload(gate)
gate.on_cuda = lambda tensor: True
compiled.WHY_NOT, compiled.serves_experts = off, serves_experts
