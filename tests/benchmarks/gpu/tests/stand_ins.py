"""Stand-ins for the GPU in tests: a clock that ticks by itself, launchers on the CPU."""

from contextlib import nullcontext
from types import SimpleNamespace

import torch
from torch import Tensor

from mini_moe.checker import Checked
from tests.benchmarks.gpu.clock import Clock, TimeKeeper
from tests.benchmarks.gpu.libraries import Launchers
from tests.benchmarks.gpu.parts.bench import Bench


class Ticks:
    """A clock on which every reading is one step later than the one before."""

    def __init__(self, step: float = 1e-3) -> None:
        self.time, self.step = 0.0, step

    def __call__(self) -> float:
        self.time += self.step
        return self.time


class CheckedLaunchers(Launchers):
    """The real launchers, compiled by g++, with every access checked (kernels/checker)."""

    def __init__(self, checked: Checked) -> None:
        self.checked, self.library = checked, checked.library

    def call(self, name: str, *arguments) -> None:
        self.function(name)
        given = [t.detach() if isinstance(t, Tensor) else t for t in arguments]
        watched = [
            self.checked.input(f"argument {i}", t, writable=True) if isinstance(t, Tensor) else t
            for i, t in enumerate(given)
        ]
        self.checked.call(name, *watched)
        for to, source in zip(given, watched, strict=True):
            if isinstance(to, Tensor) and to.is_floating_point():
                to.copy_(source)
        self.checked.release()


class PretendedEvent:
    """An event whose every recording is two milliseconds after the one before."""

    recorded = 0

    def __init__(self, enable_timing: bool = False) -> None:
        assert enable_timing

    def record(self) -> None:
        PretendedEvent.recorded += 1
        self.time = 2.0 * PretendedEvent.recorded

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: "PretendedEvent") -> float:
        return end.time - self.time


class PretendedGraph:
    """Replays nothing, and counts the replays."""

    replays = 0

    def replay(self) -> None:
        self.replays += 1


def pretend_cuda(monkeypatch) -> None:
    """Fake torch.cuda's events, streams and graphs, to test code that calls them."""
    stream = SimpleNamespace(wait_stream=lambda _: None, cuda_stream=0)
    stand_ins = {
        "Event": PretendedEvent,
        "CUDAGraph": PretendedGraph,
        "Stream": lambda: stream,
        "current_stream": lambda: stream,
        "stream": lambda _: nullcontext(),
        "graph": lambda _: nullcontext(),
        "synchronize": lambda: None,
        "empty_cache": lambda: None,
    }
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)


def cpu_bench(seconds: float = 1e6, step: float = 1e-3, launchers=None) -> tuple[Bench, list]:
    """Make a bench with tiny sizes and counters for clocks; return it and the list of its rows."""
    rows: list[dict] = []
    clock = Clock("cpu", now=Ticks(step), flush_bytes=64)
    keeper = TimeKeeper(seconds, now=Ticks(0.0))
    return Bench(clock, keeper, "tiny", rows.append, launchers), rows
