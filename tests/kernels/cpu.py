"""Shared by the tests of the compiled CPU kernels: skip without them, every instruction set."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from mini_moe.ops import compiled

NAMES = ("avx512_bf16", "avx512", "avx2", "portable")

needs_library = pytest.mark.skipif(bool(compiled.WHY_NOT), reason=f"no library: {compiled.WHY_NOT}")


@contextmanager
def instructions(name: str) -> Iterator[None]:
    """Compute with one instruction set; skip if this machine lacks it."""
    if not torch.ops.mini_moe.use_instruction_set(name):
        pytest.skip(f"no {name} here")
    try:
        yield
    finally:
        torch.ops.mini_moe.use_instruction_set("")


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Set the number of threads for torch and for the kernels."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
