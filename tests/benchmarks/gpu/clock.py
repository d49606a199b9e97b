"""Timing on a device: alternating peers, flushed caches, medians and quartiles, a budget."""

import contextlib
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

FLUSH_BYTES = 1_000_000_000  # many times any cache; written in a few tenths of a millisecond
FEWEST, MOST = 5, 30  # repetitions
SLOWEST = 3.0  # seconds per call; a slower peer is left out
WRONG = 3e-2  # largest accepted ‖out − expected‖ / ‖expected‖ in bf16
Call = Callable[[], object]


class TimeKeeper:
    """A budget of seconds that starts running on creation."""

    def __init__(self, seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        self.now, self.end = now, now() + seconds

    def left(self) -> float:
        return max(0.0, self.end - self.now())

    def share(self, most: float, reserved: float = 0.0) -> float:
        """Return the seconds for the next piece: at most `most`, leaving `reserved` untouched."""
        return max(0.0, min(most, self.left() - reserved))


class Clock:
    """Times a call: between two events on a GPU, by the wall clock elsewhere.

    Before each call a gigabyte is written, so that none of the call's inputs are cached. Then a
    third of that is read from other memory, so that no writes are still pending while the call
    runs. This keeps the GPU busy while the host gets ahead, which hides the latency of the first
    launches.
    """

    def __init__(
        self,
        device: str,
        now: Callable[[], float] = time.perf_counter,
        flush_bytes: int = FLUSH_BYTES,
    ) -> None:
        self.device, self.now = device, now
        self.on_gpu = torch.device(device).type == "cuda"
        self.scrap = torch.empty(flush_bytes, dtype=torch.uint8, device=device)
        self.clean = torch.zeros(flush_bytes // 12, device=device)  # 4 bytes per number

    def seconds(self, call: Call) -> float:
        """Time one call, from flushed caches to the end of its last kernel."""
        self.scrap.fill_(1)
        self.clean.sum()
        if not self.on_gpu:
            start = self.now()
            call()
            return self.now() - start
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3

    def wait(self) -> None:
        """Wait until the device has finished everything."""
        if self.on_gpu:
            torch.cuda.synchronize()

    def forget(self) -> None:
        """Release cached memory, unless the GPU has crashed."""
        if self.on_gpu:
            with contextlib.suppress(RuntimeError):
                torch.cuda.empty_cache()

    def replay(self, call: Call) -> Call:
        """Return a call that replays all launches at once as a CUDA graph, captured on first use.

        It raises whatever capturing raises, for example if `call` waits for a result of the GPU.
        """
        if not self.on_gpu:
            return call
        made: list[tuple] = []

        def run() -> object:
            if not made:
                made.append(capture(call))
            graph, result = made[0]
            graph.replay()
            return result

        return run


def capture(call: Call) -> tuple:
    """Capture a call's launches as a graph; return it and the tensors its results will be in."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = call()
    return graph, result


def compare(
    clock: Clock,
    calls: dict[str, Call],
    expected: dict[str, list[Tensor]] | None = None,
    seconds: float = 2.0,
) -> dict[str, dict]:
    """Time all peers: {ms, ms_low, ms_high, runs, error} for each, or {why_not}.

    1. Each peer is called twice. If it fails, is wrong (compared with `expected`, if given) or
       takes more than SLOWEST seconds, it is left out and the reason is recorded.
    2. The others alternate, one call each per round, for as many rounds as fit into `seconds`.
    """
    found: dict[str, dict] = {}
    cost: dict[str, float] = {}
    for name, call in calls.items():
        try:
            found[name] = try_out(clock, call, (expected or {}).get(name))
            cost[name] = clock.seconds(call)
        except Exception as problem:  # any peer may fail in its own way; the others continue
            found[name] = {"why_not": reason(problem)}
            clock.forget()
    running = {name: calls[name] for name in cost}
    rounds = int(min(MOST, max(FEWEST, seconds / max(sum(cost.values()), 1e-9))))
    times: dict[str, list[float]] = {name: [] for name in running}
    for _ in range(1 + rounds):  # the first one allocates
        for name, call in running.items():
            times[name].append(clock.seconds(call))
    for name, values in times.items():
        found[name] |= summary(values[1:])
    return found


def try_out(clock: Clock, call: Call, expected: list[Tensor] | None) -> dict:
    """Return {error} of the second call, or {}. Raises: ValueError if it is wrong or too slow.

    The first call's results are overwritten with NaN, so that a kernel which leaves something
    unwritten can't profit from earlier values.
    """
    poison(call())
    clock.wait()
    start = clock.now()
    result = call()
    clock.wait()
    took = clock.now() - start
    if took > SLOWEST:
        raise ValueError(f"too slow: {took:.1f} s per call")
    if expected is None:
        return {}
    pairs = zip(tensors(result), expected, strict=True)
    error = max(relative_error(one, other) for one, other in pairs)
    if not error <= WRONG:
        raise ValueError(f"wrong result: relative error {error:.2g}")
    return {"error": error}


def tensors(result: object) -> list[Tensor]:
    """Return a call's results as a list."""
    return [result] if isinstance(result, Tensor) else list(result)


@torch.no_grad()
def poison(result: object) -> None:
    """Overwrite every number that a call returned with NaN."""
    for tensor in () if result is None else tensors(result):
        if tensor.is_floating_point():
            tensor.fill_(torch.nan)


def reason(problem: Exception) -> str:
    """Return an error's type and the first line of its message."""
    text = str(problem).strip().splitlines()
    first = text[0][:160] if text else "no message"
    return first if type(problem) is ValueError else f"{type(problem).__name__}: {first}"


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """‖actual − expected‖ / ‖expected‖, computed in pieces: some results fill half the memory."""
    if actual.shape != expected.shape:
        raise ValueError(f"shape {list(expected.shape)} expected, got {list(actual.shape)}")
    pieces = zip(*(t.detach().reshape(-1).split(1 << 26) for t in (actual, expected)), strict=True)
    difference = size = 0.0
    for one, other in pieces:
        difference += (one.float() - other.float()).square().sum(dtype=torch.float64).item()
        size += other.float().square().sum(dtype=torch.float64).item()
    return (difference / max(size, 1e-300)) ** 0.5


def summary(seconds: list[float]) -> dict:
    """Return median and quartiles in milliseconds."""
    low, middle, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return {"ms": 1e3 * middle, "ms_low": 1e3 * low, "ms_high": 1e3 * high, "runs": len(seconds)}
