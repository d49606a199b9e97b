"""The compiled operations for the CPU: found, loaded and asked for here, with PyTorch behind them.

`make kernels` builds `mini_moe/_C.abi3.so` from `kernels/`. Without it, or where it does not fit,
the PyTorch path of `sorted_experts.py` does the same work; `describe()` says which and why.
`MINI_MOE_KERNELS=off` in the environment leaves the library alone.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from mini_moe.ops import sorted_experts

LIBRARY = Path(__file__).parents[1] / "_C.abi3.so"
SOURCES = Path(__file__).parents[2] / "kernels"
MARK = b"mini_moe built from "  # stands in the library before the fingerprint of its sources
DTYPES = (torch.float32, torch.bfloat16)


def sources() -> list[Path]:
    """The C++ files that the library is made of."""
    return sorted(p for p in SOURCES.glob("cpu/**/*") if p.suffix in (".h", ".cpp"))


def fingerprint() -> str:
    """Changes with the sources, the way they are built, and torch."""
    digest = hashlib.sha256(torch.__version__.encode())
    for path in [*sources(), SOURCES / "build.py"]:
        digest.update(path.relative_to(SOURCES).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:24]


def load() -> str:
    """Load the library if it is there and fits its sources; the reason it is not used, or ""."""
    if os.environ.get("MINI_MOE_KERNELS", "").lower() in ("off", "0"):
        return "MINI_MOE_KERNELS is off"
    if not LIBRARY.exists():
        return "not built here, `make kernels` does"
    if SOURCES.exists() and MARK + fingerprint().encode() not in LIBRARY.read_bytes():
        return f"{LIBRARY.name} is older than its sources or torch, `make kernels` renews it"
    try:
        torch.ops.load_library(LIBRARY)
        torch.ops.mini_moe.instruction_set()
    except (OSError, RuntimeError, AttributeError) as error:
        return f"{LIBRARY.name} cannot be loaded: {str(error).splitlines()[0]}"
    return ""


WHY_NOT = load()
_switched_on = True


def describe() -> str:
    """One line: which code multiplies the experts on the CPU, and why."""
    if WHY_NOT:
        return f"experts on the CPU: PyTorch ({WHY_NOT})"
    if not _switched_on:
        return "experts on the CPU: PyTorch (compiled kernels switched off)"
    return f"experts on the CPU: compiled kernels ({torch.ops.mini_moe.instruction_set()})"


@contextmanager
def switched_off() -> Iterator[None]:
    """The PyTorch path instead, to compare with."""
    global _switched_on
    before, _switched_on = _switched_on, False
    try:
        yield
    finally:
        _switched_on = before


def serves(x: Tensor, gates: Tensor) -> bool:
    """Whether the compiled kernels take these types: float64 and the like stay with PyTorch."""
    fits = x.device.type == "cpu" and x.dtype in DTYPES and gates.dtype in DTYPES
    return fits and _switched_on and not WHY_NOT


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
    if not serves(x, gates):
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
    if not serves(x, gates) or len(saved) != expert_ids.numel():
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
