"""A layer's dense products, forward and both gradients together: our kernel against PyTorch.

    python -m tests.benchmarks.products

Sizes are those of `presets.small()` with 16 × 256 tokens, under bfloat16 autocast, the weight in
float32. One and two threads; times are the fastest of many short alternating calls, so moments in
which another process held a core don't count.
"""

import time
from collections.abc import Callable

import torch
from torch import Tensor

from mini_moe import ops
from mini_moe.ops import use
from mini_moe.training.speed import keep_freed_memory
from tests.benchmarks.common import alternate, report

TOKENS = 16 * 256
SIZES = {
    "queries": (256, 384),
    "latent": (256, 80),
    "keys and values": (64, 512),
    "output": (256, 256),
    "shared expert": (256, 128),
    "dense network": (256, 640),
    "head": (256, 4096),
}


def main(rounds: int = 40) -> None:
    """Measure, print, write results/products.json."""
    keep_freed_memory()
    rows = []
    for name, (d_in, d_out) in SIZES.items():
        fastest: dict[tuple[str, str, int], float] = {}
        for threads in (1, 2):
            torch.set_num_threads(threads)
            seconds = alternate(calls(d_in, d_out), rounds, clock=time.perf_counter)
            for (kind, path), values in seconds.items():
                fastest[kind, path, threads] = 1e3 * min(values)
        for kind in ("forward", "backward"):
            row = {"product": f"{name}, {d_in} × {d_out}", "pass": kind}
            for path in ("PyTorch", "compiled"):
                one, two = fastest[kind, path, 1], fastest[kind, path, 2]
                row |= {f"{path}, 1 thread, ms": one, f"{path}, 2 threads, ms": two}
            rows.append(row)
    report("products", "python -m tests.benchmarks.products", rows)


def calls(d_in: int, d_out: int) -> dict[tuple[str, str], Callable[[], object]]:
    """Return the forward and the backward pass, each alone, on both paths."""
    x = torch.randn(TOKENS, d_in).bfloat16().requires_grad_()
    weight = torch.randn(d_out, d_in, requires_grad=True)

    def forward() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return ops.linear(x, weight)

    made = {}
    for path in ("PyTorch", "compiled"):
        run = forward if path == "compiled" else use("pytorch")(forward)
        out = run()
        grad = torch.randn_like(out)
        made["forward", path] = run
        made["backward", path] = lambda out=out, grad=grad: torch.autograd.grad(
            out, (x, weight), grad, retain_graph=True
        )
    return made


if __name__ == "__main__":
    main()
