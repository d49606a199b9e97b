"""The whole layer of experts and its peers: forward, and forward with backward."""

import torch

from tests.benchmarks.gpu.cases import (
    DECODE,
    DEEPSEEK_V3,
    QWEN3,
    SLICE,
    SONIC,
    TEACHING,
    Shape,
    layer_bytes,
    layer_flops,
)
from tests.benchmarks.gpu.clock import tensors
from tests.benchmarks.gpu.parts.bench import Bench
from tests.benchmarks.gpu.parts.inside import look_inside
from tests.benchmarks.gpu.peers.layers import Layer

TINY = Shape(24, 64, 32, 16, 2)
REFERENCE = "cuBLAS loop"  # with nothing fused or grouped
LAUNCH_ONLY = (
    "mini_moe",
    "grouped_mm",
    "grouped_mm, bag",
    "Triton",
    "dense",
)  # these never wait for the GPU
PASSES = {False: "forward", True: "forward and backward"}


def run(bench: Bench) -> None:
    """The teaching shape, for which the project set a target, in every mode; then decoding."""
    shape = TINY if bench.size == "tiny" else TEACHING
    measure(bench, shape, "uniform", backward=False, inside=True)
    measure(bench, shape, "uniform", backward=False, mode="graph")
    measure(bench, shape, "uniform", backward=True, inside=True)
    measure(bench, shape, "uniform", backward=True, mode="fp32")
    for backward in (False, True):
        measure(bench, shape, "zipf", backward)
    for decode in bench.cases(DECODE, 1, [TINY._replace(tokens=1)]):
        for mode in ("graph", "call"):
            measure(bench, decode, "uniform", backward=False, mode=mode)


def run_shapes(bench: Bench) -> None:
    """Shapes published by other projects, the most informative first; as many as time allows."""
    shapes = [SONIC[5], SLICE, SONIC[0], QWEN3, SONIC[2], DEEPSEEK_V3]
    shapes += [shape for shape in SONIC if shape not in shapes]
    for routing, backward in (("uniform", False), ("uniform", True), ("zipf", False)):
        for shape in bench.cases(shapes, 2, [TINY]):
            measure(bench, shape, routing, backward, inside=routing == "uniform")


def measure(
    bench: Bench,
    shape: Shape,
    routing: str,
    backward: bool,
    mode: str = "call",
    inside: bool = False,
) -> None:
    """Measure one case. "graph" replays a call's launches at once, so the host costs nothing.

    "fp32" uses no tensor cores in our kernels; all else is bf16. `inside` adds each kernel's time.
    """
    case = {**shape._asdict(), "routing": routing, "pass": PASSES[backward], "mode": mode}
    dtype = torch.float32 if mode == "fp32" else torch.bfloat16
    try:
        layer = Layer(shape, routing, bench.device, dtype)
        calls = layer.calls(backward)
        expected = [tensor.clone() for tensor in tensors(calls[REFERENCE]())]
    except torch.OutOfMemoryError:
        bench.write({"left_out": f"layer {case}: does not fit into memory"})
        bench.clock.forget()
        return
    if mode == "graph":
        calls = {name: bench.clock.replay(calls[name]) for name in LAUNCH_ONLY}
    bench.measure(
        "layer",
        case,
        calls,
        flops=layer_flops(shape, backward),
        n_bytes=0 if backward or mode == "fp32" else layer_bytes(shape, layer.ids),
        expected=expected,
        unchecked=("dense",),
    )
    if inside:
        look_inside(bench, case, calls["mini_moe"])
    bench.clock.forget()
