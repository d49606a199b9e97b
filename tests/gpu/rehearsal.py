"""A pytest plugin: the GPU's tests with the CUDA bindings and kernels compiled for the CPU.

    MINI_MOE_REHEARSAL=LIBRARY python -m pytest -p tests.gpu.rehearsal tests/gpu

tests/kernels/test_rehearsal.py builds the library.
"""

import importlib
import os

import torch

os.environ["MINI_MOE_KERNELS"] = "off"  # the usual library stays where it is
from mini_moe.ops import compiled, steps  # noqa: E402

torch.ops.load_library(os.environ["MINI_MOE_REHEARSAL"])
compiled.WHY_NOT = compiled.CUDA_WHY_NOT = ""
importlib.reload(steps)
steps.on_cuda = lambda tensor: True
