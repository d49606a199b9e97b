"""Shared by all benchmarks: alternating rounds, medians, a table, and a JSON file of results."""

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from mini_moe.files import replace_files
from tests.benchmarks.machine import ROOT, Others, processor, software

__all__ = ["RESULTS", "ROOT", "alternate", "report", "spread"]

RESULTS = Path(__file__).parent / "results"
others = Others()


def alternate(
    peers: dict[str, Callable[[], object]],
    rounds: int,
    warm_up: int = 2,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Time peers by turns, one call each per round; return their seconds without warm-up rounds.

    All peers share the machine's slow and fast moments, so their ratios are more reliable than any
    of the times.
    """
    seconds: dict[str, list[float]] = {name: [] for name in peers}
    for number in range(warm_up + rounds):
        for name, call in peers.items():
            start = clock()
            call()
            if number >= warm_up:
                seconds[name].append(clock() - start)
    return seconds


def spread(values: list[float]) -> dict[str, float]:
    """Return median, lowest and highest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def report(name: str, command: str, rows: list[dict], **more: object) -> None:
    """Print rows as a table and store them in results/NAME.json under this machine's name.

    This call is all a benchmark needs: the load from other processes is measured from the import or
    the last report. `more` is stored with the rows. The file has one entry per processor; a run on
    a busy machine is marked as such and never replaces one on a quiet machine.
    """
    print(f"\n{name}\n{table(rows)}", flush=True)
    entry = {"command": command, **software(), **others.since(), "rows": rows, **more}
    print(keep(name, processor(), entry), flush=True)


def table(rows: list[dict]) -> str:
    """Format rows as aligned text, one column per key."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[_text(row.get(column, "")) for column in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        for line in [columns, *cells]
    )


def keep(name: str, cpu: str, entry: dict, folder: Path = RESULTS) -> str:
    """Store one processor's entry in FOLDER/NAME.json among the others; say if it was kept."""
    path = folder / f"{name}.json"
    content = {"benchmark": name, "machines": {}}
    if path.exists():
        content = json.loads(path.read_text(encoding="utf-8"))
    before = content["machines"].get(cpu)
    if entry["busy"] and before is not None and not before.get("busy"):
        share = f"{entry['others_share']:.0%} of the cores were taken by other work"
        return f"not kept: {share}, and {path.name} has a quiet run on {cpu}"
    content["machines"][cpu] = entry
    replace_files(folder, {path.name: json.dumps(content, indent=1, ensure_ascii=False) + "\n"})
    return f"kept in {path.name}: {cpu}{', a busy machine' if entry['busy'] else ''}"


def _text(value: object) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else str(value)
