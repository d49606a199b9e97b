"""What takes the GPU's place in tests: a clock that ticks by itself, launchers on the CPU."""

from torch import Tensor

from tests.benchmarks.gpu.clock import Clock, TimeKeeper
from tests.benchmarks.gpu.libraries import Launchers
from tests.benchmarks.gpu.parts.bench import Bench
from tests.kernels.checked import Checked


class Ticks:
    """A clock whose every reading is one step later than the one before."""

    def __init__(self, step: float = 1e-3) -> None:
        self.time, self.step = 0.0, step

    def __call__(self) -> float:
        self.time += self.step
        return self.time


class CheckedLaunchers(Launchers):
    """The real launchers, translated by g++, whose every access is checked (kernels/checker)."""

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


def cpu_bench(seconds: float = 1e6, step: float = 1e-3, launchers=None) -> tuple[Bench, list]:
    """A bench of tiny sizes whose clocks are counters, and the list its rows go to."""
    rows: list[dict] = []
    clock = Clock("cpu", now=Ticks(step), flush_bytes=64)
    keeper = TimeKeeper(seconds, now=Ticks(0.0))
    return Bench(clock, keeper, "tiny", rows.append, launchers), rows
