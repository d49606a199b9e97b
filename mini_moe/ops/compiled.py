"""Load the compiled operations for CPU and CUDA, and decide when they can run.

`make kernels` builds `mini_moe/_C.abi3.so` from `kernels/`, with CUDA kernels if nvcc is found. If
the library is missing or doesn't support an input, PyTorch does the same work; `ops.describe()`
says which one runs and why. `MINI_MOE_KERNELS=off` in the environment disables the library.
"""

import hashlib
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from torch.autograd import forward_ad

from mini_moe.ops.context import allowed_form
from mini_moe.ops.seal import is_whole

LIBRARY = Path(__file__).parents[1] / "_C.abi3.so"
SOURCES = Path(__file__).parents[2] / "kernels"
MARK = b"mini_moe built from "  # precedes the fingerprint of the sources in the library
CUDA_MARK = b"mini_moe CUDA by "  # precedes nvcc's stamp, ": ", and what the library has for CUDA
DTYPES = (torch.float32, torch.bfloat16)
NEWLINE = "\n"
MOST_EXPERTS_ON_CUDA = 1024  # sort_rows.cu counts each expert with one thread of a block


def sources() -> list[Path]:
    """Return the C++ and CUDA files that the library is built from."""
    files = [*SOURCES.glob("cpu/**/*"), *SOURCES.glob("cuda/*"), *SOURCES.glob("*.cu*")]
    return sorted(p for p in files if p.suffix in (".h", ".cpp", ".cu", ".cuh"))


def fingerprint() -> str:
    """Hash the sources and the build script, but not torch: any version from 2.11 on works."""
    digest = hashlib.sha256()
    for path in [*sources(), SOURCES / "build.py"]:
        digest.update(path.relative_to(SOURCES).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:24]


def load() -> str:
    """Load the library if it exists and matches its sources; return why it isn't used, or ""."""
    if os.environ.get("MINI_MOE_KERNELS", "").lower() in ("off", "0"):
        return "MINI_MOE_KERNELS is off"
    if not LIBRARY.exists():
        how = "run `make kernels`" if SOURCES.exists() else "the sources are in the repository"
        return f"not built: {how}"
    data = LIBRARY.read_bytes()
    if not is_whole(data):
        return f"{LIBRARY.name} is damaged or truncated: run `make kernels`"
    if SOURCES.exists() and MARK + fingerprint().encode() not in data:
        return f"{LIBRARY.name} is older than its sources: run `make kernels`"
    try:
        torch.ops.load_library(LIBRARY)
        torch.ops.mini_moe.instruction_set()
    except (OSError, RuntimeError, AttributeError) as error:
        why = str(error).partition(NEWLINE)[0] or type(error).__name__
        return f"{LIBRARY.name} cannot be loaded: {why}"
    return ""


def instruction_set() -> str:
    """Return the instruction set that the loaded library uses on this processor."""
    return torch.ops.mini_moe.instruction_set()


def cuda_kernels() -> str:
    """Return the architectures with CUDA kernels in the loaded library, or "none: …" and why."""
    return f"none: {WHY_NOT}" if WHY_NOT else torch.ops.mini_moe.cuda_kernels()


WHY_NOT = load()
CUDA_WHY_NOT = cuda_kernels().partition("none: ")[2]


def describe(what: str = "experts", on_cpu: bool = True, on_cuda: bool = True) -> str:
    """Say in one line what runs an operation on the CPU and on CUDA, and why.

    `on_cpu` and `on_cuda` say for which of them the library has a kernel.
    """
    cpu = _runner(on_cpu, WHY_NOT, instruction_set)
    cuda = _runner(on_cuda, CUDA_WHY_NOT, cuda_kernels)
    return f"{what} on the CPU: {cpu}; on CUDA: {'the same' if cuda == cpu else cuda}"


def _runner(has_kernel: bool, why_not: str, target: Callable[[], str]) -> str:
    if allowed_form() == "definition":
        return "the definition (asked for by ops.use)"
    if allowed_form() == "pytorch":
        return "PyTorch (compiled kernels switched off)"
    if not has_kernel:
        return "PyTorch"
    return f"PyTorch ({why_not})" if why_not else f"compiled kernels ({target()})"


def serves(*tensors: Tensor) -> bool:
    """Return whether compiled CPU code accepts these; float64 and the like stay with PyTorch."""
    fits = all(t.device.type == "cpu" and t.dtype in DTYPES for t in tensors)
    return fits and allowed_form() == "compiled" and not WHY_NOT and not carries_tangents()


def serves_experts(x: Tensor, gates: Tensor, n_experts: int) -> bool:
    """Return whether the compiled layer accepts this input, on the CPU or a recent enough GPU."""
    if x.device.type != "cuda":
        return serves(x, gates)
    fits = x.dtype in DTYPES and gates.dtype in DTYPES and n_experts <= MOST_EXPERTS_ON_CUDA
    fits = fits and allowed_form() == "compiled" and not CUDA_WHY_NOT and not carries_tangents()
    return fits and has_tensor_cores_for_bf16(x.device.index)


def carries_tangents() -> bool:
    """Return whether forward-mode AD (torch.func.jvp) is active: our operations drop tangents."""
    return forward_ad._current_level >= 0


@cache
def has_tensor_cores_for_bf16(device: int) -> bool:
    """Return whether a GPU is from 2020 or later (compute capability 8.0), as the kernels require.

    Without a GPU, only fake tensors get here to infer shapes, and the answer is True.
    """
    return not torch.cuda.is_available() or torch.cuda.get_device_capability(device) >= (8, 0)


def release_memory() -> int:
    """Release the scratch memory that the kernels' threads keep; return its size in bytes."""
    return 0 if WHY_NOT else torch.ops.mini_moe.release_scratch()


class named_errors:  # noqa: N801 (used like a function)
    """Context manager: re-raise the library's argument errors as ValueError."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, RuntimeError):
            _, ours, text = str(error).partition("mini_moe: ")
            if ours:
                raise ValueError(text.partition(NEWLINE)[0]) from None
