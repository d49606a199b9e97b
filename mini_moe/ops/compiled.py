"""The compiled operations for CPU and CUDA: found, loaded and asked for here.

`make kernels` builds `mini_moe/_C.abi3.so` from `kernels/`, with CUDA kernels where nvcc is found.
Without it, or where it does not fit, the PyTorch path of `sorted_experts.py` does the same work;
`describe()` says which and why. `MINI_MOE_KERNELS=off` in the environment leaves the library alone.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from torch.autograd import forward_ad

from mini_moe.ops import sorted_experts

LIBRARY = Path(__file__).parents[1] / "_C.abi3.so"
SOURCES = Path(__file__).parents[2] / "kernels"
MARK = b"mini_moe built from "  # stands in the library before the fingerprint of its sources
CUDA_MARK = b"mini_moe CUDA by "  # before nvcc's stamp, ": ", and what the library has for CUDA
DTYPES = (torch.float32, torch.bfloat16)
MOST_EXPERTS_ON_CUDA = 1024  # sort_rows.cu: one thread of a block counts for each


def sources() -> list[Path]:
    """The C++ and CUDA files that the library is made of."""
    files = [*SOURCES.glob("cpu/**/*"), *SOURCES.glob("cuda/*"), *SOURCES.glob("*.cu*")]
    return sorted(p for p in files if p.suffix in (".h", ".cpp", ".cu", ".cuh"))


def fingerprint() -> str:
    """Changes with the sources and the way they are built; any torch from 2.11 on fits."""
    digest = hashlib.sha256()
    for path in [*sources(), SOURCES / "build.py"]:
        digest.update(path.relative_to(SOURCES).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:24]


def load() -> str:
    """Load the library if it is there and fits its sources; the reason it is not used, or ""."""
    if os.environ.get("MINI_MOE_KERNELS", "").lower() in ("off", "0"):
        return "MINI_MOE_KERNELS is off"
    if not LIBRARY.exists():
        how = "`make kernels` does" if SOURCES.exists() else "that needs the repository"
        return f"not built here, {how}"
    if SOURCES.exists() and MARK + fingerprint().encode() not in LIBRARY.read_bytes():
        return f"{LIBRARY.name} is older than its sources, `make kernels` renews it"
    try:
        torch.ops.load_library(LIBRARY)
        torch.ops.mini_moe.instruction_set()
    except (OSError, RuntimeError, AttributeError) as error:
        return f"{LIBRARY.name} cannot be loaded: {str(error).splitlines()[0]}"
    return ""


def cuda_kernels() -> str:
    """The architectures that the loaded library has CUDA kernels for, or "none: …" and why."""
    return f"none: {WHY_NOT}" if WHY_NOT else torch.ops.mini_moe.cuda_kernels()


WHY_NOT = load()
CUDA_WHY_NOT = cuda_kernels().partition("none: ")[2]
_switched_on = True


def describe() -> str:
    """One line: which code multiplies the experts on the CPU and on CUDA, and why."""
    if not _switched_on:
        return "experts on the CPU: PyTorch (compiled kernels switched off); on CUDA: the same"
    if WHY_NOT:
        return f"experts on the CPU: PyTorch ({WHY_NOT}); on CUDA: the same"
    cpu = f"compiled kernels ({torch.ops.mini_moe.instruction_set()})"
    cuda = f"PyTorch ({CUDA_WHY_NOT})" if CUDA_WHY_NOT else f"compiled kernels ({cuda_kernels()})"
    return f"experts on the CPU: {cpu}; on CUDA: {cuda}"


@contextmanager
def switched_off() -> Iterator[None]:
    """The PyTorch path instead, to compare with."""
    global _switched_on
    before, _switched_on = _switched_on, False
    try:
        yield
    finally:
        _switched_on = before


def serves(*tensors: Tensor) -> bool:
    """Whether what is compiled for the CPU takes these: float64 and the like stay with PyTorch."""
    fits = all(t.device.type == "cpu" and t.dtype in DTYPES for t in tensors)
    return fits and _switched_on and not WHY_NOT and not carries_tangents()


def carries_tangents() -> bool:
    """Whether derivatives run forwards (torch.func.jvp): operations of our own would lose them."""
    return forward_ad._current_level >= 0


def serves_experts(x: Tensor, gates: Tensor, n_experts: int) -> bool:
    """Whether the compiled layer takes this, on the CPU or on a GPU that is not too old."""
    if x.device.type != "cuda":
        return serves(x, gates)
    fits = x.dtype in DTYPES and gates.dtype in DTYPES and n_experts <= MOST_EXPERTS_ON_CUDA
    fits = fits and _switched_on and not CUDA_WHY_NOT and not carries_tangents()
    return fits and has_tensor_cores_for_bf16(x.device.index)


@cache
def has_tensor_cores_for_bf16(device: int) -> bool:
    """Whether a GPU is of 2020 or later (compute capability 8.0), which the kernels are built for.

    Where there is no GPU only shapes are asked for, by fake tensors, and the answer is yes.
    """
    return not torch.cuda.is_available() or torch.cuda.get_device_capability(device) >= (8, 0)


def forward(
    x: Tensor,
    expert_ids: Tensor,
    gates: Tensor,
    gate_up_proj: Tensor,
    down_proj: Tensor,
    keep: bool = True,
) -> tuple[Tensor, Tensor]:
    """`sorted_experts.forward`, compiled where that is possible; rows of saved are not padded."""
    arguments = (x, expert_ids, gates, gate_up_proj, down_proj, keep)
    if not serves_experts(x, gates, len(gate_up_proj)):
        return sorted_experts.forward(*arguments)
    with named_errors():
        return torch.ops.mini_moe.experts_forward(x, expert_ids.long(), *arguments[2:])


def backward(
    grad: Tensor,
    x: Tensor,
    expert_ids: Tensor,
    gates: Tensor,
    gate_up_proj: Tensor,
    down_proj: Tensor,
    saved: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`sorted_experts.backward`, compiled where the forward pass was."""
    arguments = (gates, gate_up_proj, down_proj, saved)
    if not serves_experts(x, gates, len(gate_up_proj)) or len(saved) != expert_ids.numel():
        return sorted_experts.backward(grad, x, expert_ids, *arguments)
    with named_errors():
        return torch.ops.mini_moe.experts_backward(grad, x, expert_ids.long(), *arguments)


class named_errors:  # noqa: N801 (called like a function)
    """The library's complaints about arguments, as ValueError."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, RuntimeError):
            _, ours, text = str(error).partition("mini_moe: ")
            if ours:
                raise ValueError(text.splitlines()[0]) from None
