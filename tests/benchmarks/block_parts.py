"""The parts of a block other than its experts, forward and backward: one kernel against PyTorch.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.block_parts

Sizes are those of a layer of `presets.small()` with 16 × 256 tokens, under bfloat16 autocast. It
uses one thread and measures its CPU time; the two paths alternate.
"""

import time
from collections.abc import Callable

import torch
from torch import Tensor

from mini_moe import ops, presets
from mini_moe.config import TrainConfig
from mini_moe.model.router import Router
from mini_moe.ops import use
from mini_moe.training.losses import balance_loss
from mini_moe.training.speed import keep_freed_memory
from tests.benchmarks.common import alternate, report, spread

BATCH, SEQ, HEADS = 16, 256, 8
TOKENS = BATCH * SEQ


def main(rounds: int = 15) -> None:
    """Measure, print, write results/block_parts.json."""
    torch.set_num_threads(1)
    keep_freed_memory()
    rows = []
    for name, (function, leaves) in parts().items():
        calls = {"compiled": both(function, leaves), "PyTorch": without(both(function, leaves))}
        seconds = alternate(calls, rounds, clock=time.thread_time)
        medians = {kind: 1e3 * spread(values)["median"] for kind, values in seconds.items()}
        ratio = medians["compiled"] / medians["PyTorch"]
        rows.append({"part": name} | {f"{k}, ms": v for k, v in medians.items()} | {"ratio": ratio})
    report("block_parts", "OMP_NUM_THREADS=1 python -m tests.benchmarks.block_parts", rows)


def parts() -> dict[str, tuple[Callable[[], Tensor | tuple[Tensor, ...]], list[Tensor]]]:
    """Return what each part computes, and the tensors that get gradients."""
    query, kv, rope = leaf(BATCH, SEQ, HEADS, 48), leaf(BATCH, SEQ, HEADS, 64), leaf(BATCH, SEQ, 16)
    rotation = torch.randn(SEQ, 8, 2)
    x, weight = torch.randn(TOKENS, 256, requires_grad=True), torch.ones(256, requires_grad=True)
    logits, targets = leaf(TOKENS, 4096), torch.randint(4096, (TOKENS,))
    gate, up = leaf(TOKENS, 640), leaf(TOKENS, 640)
    router, rows, config = Router(presets.small()), leaf(TOKENS, 256), TrainConfig()
    torch.nn.init.normal_(router.weight, std=0.1)
    queries, branch = torch.randn(384, 256, requires_grad=True), leaf(TOKENS, 256)

    def route() -> Tensor:
        routing = router(rows)
        return routing.gates.sum() + balance_loss(routing, config, BATCH)

    return {
        "attention": (lambda: ops.latent_attention(query, kv, rope, 0.14), [query, kv, rope]),
        "rotation of queries": (lambda: ops.rotate(query, rotation), [query]),
        "norm": (lambda: ops.normalise(x, weight, 1e-6), [x, weight]),
        "residual sum and norm": (
            lambda: ops.add_and_normalise(x, branch, weight, 1e-6),
            [x, branch, weight],
        ),
        "product of the queries": (lambda: ops.linear(rows, queries), [rows, queries]),
        "activation, width 640": (lambda: ops.swiglu_product(gate, up), [gate, up]),
        "router and balance loss": (route, [rows, router.weight]),
        "loss of the head": (lambda: ops.cross_entropy(logits, targets), [logits]),
    }


def leaf(*shape: int) -> Tensor:
    """Return normally distributed numbers in bfloat16 that get a gradient."""
    return torch.randn(*shape).bfloat16().requires_grad_()


def both(
    function: Callable[[], Tensor | tuple[Tensor, ...]], leaves: list[Tensor]
) -> Callable[[], None]:
    """Return a call that runs the forward and the backward pass."""

    def call() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            output = function()
        outputs = output if isinstance(output, tuple) else (output,)
        torch.autograd.grad(outputs, leaves, [torch.ones_like(tensor) for tensor in outputs])

    return call


def without(call: Callable[[], None]) -> Callable[[], None]:
    """Return the same call with the compiled kernels switched off."""

    def switched() -> None:
        with use("pytorch"):
            call()

    return switched


if __name__ == "__main__":
    main()
