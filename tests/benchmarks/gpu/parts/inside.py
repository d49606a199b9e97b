"""How long each kernel inside the layer runs, by torch's profiler: why the layer takes its time."""

import re
from collections.abc import Callable

from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from tests.benchmarks.gpu.clock import reason
from tests.benchmarks.gpu.parts.bench import Bench

REPEATS = 10
SECONDS = 3.0  # kept free for a look inside


def look_inside(bench: Bench, case: dict, call: Callable[[], object]) -> None:
    """A row a kernel: milliseconds and launches of one call, and its share of all kernels' time.

    Caches are as the call before left them, so the sum may lie below the layer's own time.
    """
    if bench.keeper.left() < SECONDS:
        bench.write({"left_out": f"inside {case}: no time left"})
        return
    try:
        found = kernels_of(bench, call)
    except Exception as problem:  # without kernels, or without a profiler: the part goes on
        bench.write({"left_out": f"inside {case}: {reason(problem)}"})
        return
    total = sum(seconds for seconds, _ in found.values())
    for name, (seconds, launches) in sorted(found.items(), key=lambda kernel: -kernel[1][0]):
        figures = {"ms": 1e3 * seconds / REPEATS, "launches": launches / REPEATS}
        share = {"share": seconds / total if total else 0.0}
        bench.write({"part": "inside", "case": case, "peer": name} | figures | share)


def kernels_of(bench: Bench, call: Callable[[], object]) -> dict[str, tuple[float, int]]:
    """Seconds and launches of every kernel in REPEATS calls; of operators where there is no GPU."""
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
    """A kernel's name without return type and namespaces; of its arguments the first one's type."""
    name = name.removeprefix("void ").replace("(anonymous namespace)::", "")
    head, _, arguments = name.partition("(")
    first = re.match(r"[\w:]+", arguments)
    return f"{head} of {first[0]}"[:90] if first and "tensor_core" in head else head[:90]
