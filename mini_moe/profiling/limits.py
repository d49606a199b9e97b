"""Measure this machine's limits: matrix products, copies, and the cost of a single call."""

import functools
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch

from mini_moe.ops import compiled

MATMUL_SIZES = (512, 1024)  # sizes of square products
COPY_BYTES = (256 << 10, 64 << 20)  # the first fits a core's cache, the second goes to memory
CALLS = 1000  # tiny operations in a row
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The best rates measured on a device; nothing measured there should exceed them."""

    device: str
    threads: int
    flops: dict[str, float]  # FLOP/s of the fastest matrix product, by dtype
    flops_from: dict[str, str]  # which product that was
    memory_bytes: float  # bytes read and written per second, for tensors far larger than caches
    cache_bytes: float  # bytes read and written per second, for a tensor in a core's cache
    call_seconds: float  # of one operation on one number: the cost of the call alone

    def __str__(self) -> str:
        lines = [f"{self.device}, {self.threads} threads"]
        for name, peak in self.flops.items():
            lines.append(f"{name:9} {peak / 1e9:8.0f} GFLOP/s  ({self.flops_from[name]})")
        for name, rate in (("memory", self.memory_bytes), ("cache", self.cache_bytes)):
            lines.append(f"{name:9} {rate / 1e9:8.1f} GB/s")
        lines.append(f"{'a call':9} {self.call_seconds * 1e6:8.2f} µs")
        return "\n".join(lines)

    def seconds(
        self, flops: int | float, n_bytes: int | float, calls: int, dtype: str = "bfloat16"
    ) -> dict[str, float]:
        """Return the least seconds that "compute", "bytes" and "calls" would each allow alone."""
        return {
            "compute": flops / self.flops[dtype],
            "bytes": n_bytes / self.memory_bytes,
            "calls": calls * self.call_seconds,
        }


def machine_limits(device: str | torch.device = "cpu", budget: int | float = 3.0) -> Limits:
    """Measure a device, once per process and number of threads, in at most about `budget` seconds.

    Products are square, of MATMUL_SIZES; on the CPU the compiled grouped product with one expert
    is also tried if it is built, since the roof must not be below our own kernels. Copies move
    COPY_BYTES, counted as both read and written. All figures are the best of several repeats.

    Raises: ValueError for a device without numbers (meta), or a budget that is not positive.
    """
    kind = torch.device(device).type
    if kind == "meta":
        raise ValueError("device='meta': nothing runs on it, so nothing can be measured")
    if not budget > 0:
        raise ValueError(f"budget={budget}: seconds above 0 expected")
    return _measure(kind, torch.get_num_threads(), float(budget))


@functools.lru_cache(maxsize=16)
def _measure(device: str, threads: int, budget: float) -> Limits:
    share = budget / 10
    flops, origins = {}, {}
    for name, dtype in DTYPES.items():
        tried = {}
        for size in MATMUL_SIZES:
            one = best_seconds(_product(size, dtype, device), share / len(MATMUL_SIZES), device)
            tried[f"torch, {size} × {size} × {size}"] = 2 * size**3 / one
        if device == "cpu" and not compiled.WHY_NOT:
            rows, width = 2048, 512
            one = best_seconds(_grouped(rows, width, dtype), share, device)
            tried[f"compiled kernels, {rows} × {width} × {width}"] = 2 * rows * width**2 / one
        origins[name] = max(tried, key=tried.__getitem__)
        flops[name] = tried[origins[name]]
    small, large = (
        2 * n_bytes / best_seconds(_copy(n_bytes, device), share, device) for n_bytes in COPY_BYTES
    )
    number = torch.ones(1, device=device)

    def calls() -> None:
        for _ in range(CALLS):
            number.add_(1)

    return Limits(
        device=device, threads=threads, flops=flops, flops_from=origins, memory_bytes=large,
        cache_bytes=max(small, large),
        call_seconds=best_seconds(calls, share, device) / CALLS,
    )  # fmt: skip


def best_seconds(
    call: Callable[[], object], budget: float = 0.3, device: str = "cpu", least: int = 3
) -> float:
    """Return the fastest of at least `least` calls; repeat while the budget of seconds lasts."""
    wait = torch.cuda.synchronize if device == "cuda" else nullcontext
    call()
    wait()
    best, begun, done = math.inf, time.perf_counter(), 0
    while done < least or time.perf_counter() - begun < budget:
        start = time.perf_counter()
        call()
        wait()
        best, done = min(best, time.perf_counter() - start), done + 1
    return best


def _product(size: int, dtype: torch.dtype, device: str) -> Callable[[], object]:
    numbers = torch.Generator().manual_seed(0)
    left, right = torch.randn(2, size, size, generator=numbers).to(device, dtype)
    out = torch.empty(size, size, dtype=dtype, device=device)
    return lambda: torch.mm(left, right, out=out)


def _grouped(rows: int, width: int, dtype: torch.dtype) -> Callable[[], object]:
    numbers = torch.Generator().manual_seed(0)
    a = torch.randn(rows, width, generator=numbers).to(dtype)
    b = torch.randn(1, width, width, generator=numbers).to(dtype)
    offsets = torch.tensor([0, rows])
    return lambda: torch.ops.mini_moe.grouped_gemm(a, offsets, b, True)


def _copy(n_bytes: int, device: str) -> Callable[[], object]:
    source = torch.ones(n_bytes // 4, device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)
