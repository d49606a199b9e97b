"""The compiled operations for CPU and CUDA: found, loaded and asked for here.

`make kernels` builds `mini_moe/_C.abi3.so` from `kernels/`, with CUDA kernels where nvcc is found.
Without it, or where it does not fit, PyTorch does the same work; `ops.describe()` says which and
why. `MINI_MOE_KERNELS=off` in the environment leaves the library alone.
"""

import hashlib
import os
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from torch.autograd import forward_ad

from mini_moe.ops.seal import is_whole
from mini_moe.ops.switch import allowed_form

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
    data = LIBRARY.read_bytes()
    if not is_whole(data):
        return f"{LIBRARY.name} is damaged or was cut short, `make kernels` renews it"
    if SOURCES.exists() and MARK + fingerprint().encode() not in data:
        return f"{LIBRARY.name} is older than its sources, `make kernels` renews it"
    try:
        torch.ops.load_library(LIBRARY)
        torch.ops.mini_moe.instruction_set()
    except (OSError, RuntimeError, AttributeError) as error:
        return f"{LIBRARY.name} cannot be loaded: {str(error).splitlines()[0]}"
    return ""


def instruction_set() -> str:
    """The instruction set that the loaded library uses on this processor."""
    return torch.ops.mini_moe.instruction_set()


def cuda_kernels() -> str:
    """The architectures that the loaded library has CUDA kernels for, or "none: …" and why."""
    return f"none: {WHY_NOT}" if WHY_NOT else torch.ops.mini_moe.cuda_kernels()


WHY_NOT = load()
CUDA_WHY_NOT = cuda_kernels().partition("none: ")[2]


def serves(*tensors: Tensor) -> bool:
    """Whether what is compiled for the CPU takes these: float64 and the like stay with PyTorch."""
    fits = all(t.device.type == "cpu" and t.dtype in DTYPES for t in tensors)
    return fits and allowed_form() == "compiled" and not WHY_NOT and not carries_tangents()


def serves_experts(x: Tensor, gates: Tensor, n_experts: int) -> bool:
    """Whether the compiled layer takes this, on the CPU or on a GPU that is not too old."""
    if x.device.type != "cuda":
        return serves(x, gates)
    fits = x.dtype in DTYPES and gates.dtype in DTYPES and n_experts <= MOST_EXPERTS_ON_CUDA
    fits = fits and allowed_form() == "compiled" and not CUDA_WHY_NOT and not carries_tangents()
    return fits and has_tensor_cores_for_bf16(x.device.index)


def carries_tangents() -> bool:
    """Whether derivatives run forwards (torch.func.jvp): operations of our own would lose them."""
    return forward_ad._current_level >= 0


@cache
def has_tensor_cores_for_bf16(device: int) -> bool:
    """Whether a GPU is of 2020 or later (compute capability 8.0), which the kernels are built for.

    Where there is no GPU only shapes are asked for, by fake tensors, and the answer is yes.
    """
    return not torch.cuda.is_available() or torch.cuda.get_device_capability(device) >= (8, 0)


def release_memory() -> int:
    """Give back the scratch memory that the kernels' threads keep; return how many bytes it was."""
    return 0 if WHY_NOT else torch.ops.mini_moe.release_scratch()


class named_errors:  # noqa: N801 (called like a function)
    """The library's complaints about arguments, as ValueError."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, RuntimeError):
            _, ours, text = str(error).partition("mini_moe: ")
            if ours:
                raise ValueError(text.splitlines()[0]) from None
