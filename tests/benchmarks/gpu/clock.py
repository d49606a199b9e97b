"""Times on a device: peers in turn, caches flushed, medians and quartiles, a budget."""

import contextlib
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

FLUSH_BYTES = 1_000_000_000  # many times any cache; a few tenths of a millisecond to write
FEWEST, MOST = 5, 30  # repetitions
SLOWEST = 3.0  # seconds a call; a slower peer is left out
WRONG = 3e-2  # largest accepted ‖out − expected‖ / ‖expected‖ in bf16
Call = Callable[[], object]


class TimeKeeper:
    """A budget of seconds that starts to run now."""

    def __init__(self, seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        self.now, self.end = now, now() + seconds

    def left(self) -> float:
        return max(0.0, self.end - self.now())

    def share(self, most: float, reserved: float = 0.0) -> float:
        """Seconds for the next piece: at most `most`, and what is `reserved` stays."""
        return max(0.0, min(most, self.left() - reserved))


class Clock:
    """Seconds of a call: between two events on a GPU, by the wall elsewhere.

    Before each call a gigabyte is written, so nothing that the call reads lies in a cache; then a
    third of that is read elsewhere, so what was written is not still on its way to the memory while
    the call runs. The GPU is busy with it and the host gets ahead: a few launches are timed without
    their way there.
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
        self.clean = torch.zeros(flush_bytes // 12, device=device)  # 4 bytes each

    def seconds(self, call: Call) -> float:
        """One call, from flushed caches to its last kernel's end."""
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
        """Until the device has done everything."""
        if self.on_gpu:
            torch.cuda.synchronize()

    def forget(self) -> None:
        """Give cached memory back; on a GPU that crashed there is none to give."""
        if self.on_gpu:
            with contextlib.suppress(RuntimeError):
                torch.cuda.empty_cache()

    def replay(self, call: Call) -> Call:
        """The launches of a call, all at once: a CUDA graph, made when it is first used.

        It raises whatever capturing raises, as when `call` waits for a result of the GPU.
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
    """A graph of the call's launches, and where its results will lie."""
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
    """Every peer's figures: {ms, ms_low, ms_high, runs, error}, or {why_not}.

    1. Each peer is called twice: what fails, is wrong (where `expected` has its results) or takes
       more than SLOWEST seconds is out, and the reason stays.
    2. The others take turns, one call each a round, as many rounds as fit `seconds`.
    """
    found: dict[str, dict] = {}
    cost: dict[str, float] = {}
    for name, call in calls.items():
        try:
            found[name] = try_out(clock, call, (expected or {}).get(name))
            cost[name] = clock.seconds(call)
        except Exception as problem:  # any peer may fail in its own way; the others go on
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
    """{error} of the second call, or {}. Raises: ValueError when it is wrong or too slow.

    What the first call returned is overwritten with NaN: a kernel that leaves something unwritten
    cannot live on what lay there before.
    """
    poison(call())
    clock.wait()
    start = clock.now()
    result = call()
    clock.wait()
    took = clock.now() - start
    if took > SLOWEST:
        raise ValueError(f"too slow: {took:.1f} s a call")
    if expected is None:
        return {}
    pairs = zip(tensors(result), expected, strict=True)
    error = max(relative_error(one, other) for one, other in pairs)
    if not error <= WRONG:
        raise ValueError(f"wrong result: relative error {error:.2g}")
    return {"error": error}


def tensors(result: object) -> list[Tensor]:
    """What a call returned, as a list."""
    return [result] if isinstance(result, Tensor) else list(result)


@torch.no_grad()
def poison(result: object) -> None:
    """NaN into every number that a call returned."""
    for tensor in () if result is None else tensors(result):
        if tensor.is_floating_point():
            tensor.fill_(torch.nan)


def reason(problem: Exception) -> str:
    """The first line of what was said, and who said it."""
    text = str(problem).strip().splitlines()
    first = text[0][:160] if text else "without a word"
    return first if type(problem) is ValueError else f"{type(problem).__name__}: {first}"


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """‖actual − expected‖ / ‖expected‖, a piece at a time: some results fill half the memory."""
    if actual.shape != expected.shape:
        raise ValueError(f"shape {list(expected.shape)} expected, got {list(actual.shape)}")
    pieces = zip(*(t.detach().reshape(-1).split(1 << 26) for t in (actual, expected)), strict=True)
    difference = size = 0.0
    for one, other in pieces:
        difference += (one.float() - other.float()).square().sum(dtype=torch.float64).item()
        size += other.float().square().sum(dtype=torch.float64).item()
    return (difference / max(size, 1e-300)) ** 0.5


def summary(seconds: list[float]) -> dict:
    """Median and quartiles in milliseconds."""
    low, middle, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return {"ms": 1e3 * middle, "ms_low": 1e3 * low, "ms_high": 1e3 * high, "runs": len(seconds)}
