"""Time each kernel inside the layer with torch's profiler, to see where the time goes."""

import re
from collections.abc import Callable

from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from tests.benchmarks.gpu.clock import reason
from tests.benchmarks.gpu.parts.bench import Bench

REPEATS = 10
SECONDS = 3.0  # reserved for profiling


def look_inside(bench: Bench, case: dict, call: Callable[[], object]) -> None:
    """Write a row per kernel: milliseconds and launches per call, and share of the total.

    Caches are not flushed between calls, so the sum may be below the layer's own time.
    """
    if bench.keeper.left() < SECONDS:
        bench.write({"left_out": f"inside {case}: no time left"})
        return
    try:
        found = kernels_of(bench, call)
    except Exception as problem:  # without kernels or a profiler, the part still continues
        bench.write({"left_out": f"inside {case}: {reason(problem)}"})
        return
    total = sum(seconds for seconds, _ in found.values())
    for name, (seconds, launches) in sorted(found.items(), key=lambda kernel: -kernel[1][0]):
        figures = {"ms": 1e3 * seconds / REPEATS, "launches": launches / REPEATS}
        share = {"share": seconds / total if total else 0.0}
        bench.write({"part": "inside", "case": case, "peer": name} | figures | share)


def kernels_of(bench: Bench, call: Callable[[], object]) -> dict[str, tuple[float, int]]:
    """Return seconds and launches of each kernel in REPEATS calls; without a GPU, of operators."""
    on_gpu = bench.clock.on_gpu
    call()
    bench.clock.wait()
    activity = ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU
    with profile(activities=[activity]) as profiler:
        for _ in range(REPEATS):
            call()
        bench.clock.wait()
    found: dict[str, tuple[float, int]] = {}
    for event in profiler.key_averages():
        if on_gpu and event.device_type == DeviceType.CPU:
            continue
        micros = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        seconds, launches = found.get(short(event.key), (0.0, 0))
        found[short(event.key)] = (seconds + micros / 1e6, launches + event.count)
    return found


def short(name: str) -> str:
    """Shorten a kernel's name: no return type or namespaces, only the first argument's type."""
    name = name.removeprefix("void ").replace("(anonymous namespace)::", "")
    head, _, arguments = name.partition("(")
    first = re.match(r"[\w:]+", arguments)
    return f"{head} of {first[0]}"[:90] if first and "tensor_core" in head else head[:90]
