"""What every part is given: a clock, a budget, a size, and a place for its rows."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from tests.benchmarks.gpu.clock import Call, Clock, TimeKeeper, compare
from tests.benchmarks.gpu.libraries import Launchers


@dataclass
class Bench:
    """Measures cases and writes one row per peer."""

    clock: Clock
    keeper: TimeKeeper
    size: str  # "full", "quick": the first cases only, "tiny": sizes for a test on a CPU
    write: Callable[[dict], None]
    launchers: Launchers | None = None

    @property
    def device(self) -> str:
        return self.clock.device

    def cases(self, full: list, quick: int, tiny: list) -> list:
        """Return the cases that belong to the size."""
        return {"full": full, "quick": full[:quick], "tiny": tiny}[self.size]

    def launch(self, name: str, *arguments) -> None:
        """Call a launcher. Raises: ValueError if it is missing, or with its own message."""
        if self.launchers is None:
            raise ValueError("the launchers were not built")
        self.launchers.call(name, *arguments)

    def measure(
        self,
        part: str,
        case: dict,
        calls: dict[str, Call],
        *,
        flops: float = 0,
        n_bytes: float = 0,
        tokens: float = 0,
        expected: list[Tensor] | None = None,
        unchecked: tuple[str, ...] = (),
        seconds: float = 2.0,
    ) -> None:
        """Time the peers of a case; all except the `unchecked` must return what is expected."""
        if self.keeper.left() < 2 * seconds:
            self.write({"left_out": f"{part} {describe(case)}: no time left"})
            return
        checks = {n: expected for n in calls if expected is not None and n not in unchecked}
        found = compare(self.clock, calls, checks, seconds)
        for peer, figures in found.items():
            if "ms" in figures:
                rates = {"tflop_s": flops / 1e12, "gb_s": n_bytes / 1e9, "tokens_s": tokens}
                a_second = 1e3 / max(figures["ms"], 1e-9)
                figures |= {name: value * a_second for name, value in rates.items() if value}
            self.write({"part": part, "case": case, "peer": peer} | figures)


def describe(case: dict) -> str:
    """Describe a case in one line."""
    return ", ".join(f"{name} {value}" for name, value in case.items())


class Rows:
    """Rows as lines of JSON, written to disk as soon as they are known."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, row: dict) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(line(row), flush=True)


def line(row: dict) -> str:
    """Format a row for the screen."""
    if "part" not in row:
        return "  ".join(f"{name}: {value}" for name, value in row.items())
    if "why_not" in row:
        figures = f"n/a: {row['why_not']}"
    else:
        names = [n for n in ("tflop_s", "gb_s", "tokens_s", "error") if n in row]
        figures = f"{row['ms']:9.4f} ms  " + "  ".join(f"{n} {row[n]:.4g}" for n in names)
    return f"{row['part']:12} {describe(row['case'])}  {row['peer']:24} {figures}"
