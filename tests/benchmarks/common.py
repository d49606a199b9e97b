"""What every benchmark needs: alternating rounds, medians, the machine, a table and a JSON file."""

import datetime
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

RESULTS = Path(__file__).parent / "results"
ROOT = Path(__file__).parents[2]


def alternate(
    peers: dict[str, Callable[[], object]],
    rounds: int,
    warm_up: int = 2,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each peer, one call of each in turn per round; warm-up rounds are left out.

    Peers share every slow and every fast moment of the machine, so their ratio means more than any
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
    """Median, lowest and highest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def machine() -> dict:
    """What the figures were measured on."""
    cpu = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0].split(":")[1].strip() if names else cpu
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
    )
    return {
        "date": datetime.date.today().isoformat(),
        "commit": commit.stdout.strip(),
        "cpu": cpu,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def report(name: str, command: str, rows: list[dict], **more: object) -> None:
    """Print rows as a table and write results/NAME.json."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[_text(row.get(column, "")) for column in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    print(f"\n{name}")
    for line in [columns, *cells]:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)))
    RESULTS.mkdir(exist_ok=True)
    content = {"benchmark": name, "command": command, "machine": machine(), "rows": rows} | more
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
    sys.stdout.flush()


def _text(value: object) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else str(value)
