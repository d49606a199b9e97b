"""Start-up time: the import, and the tour's first picture."""

import subprocess
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from tests.benchmarks.common import ROOT, alternate, report, spread

TOUR = ROOT / "notebooks" / "00_tour.ipynb"


def main(rounds: int = 5) -> None:
    """Measure, print, write results/start_up.json."""
    seconds = alternate(
        {
            "import torch": lambda: run("import torch"),
            "import torch, mini_moe": lambda: run("import torch, mini_moe"),
        },
        rounds,
    )
    rows = [{"what": name} | spread(values) for name, values in seconds.items()]
    beyond = [ours - torch for torch, ours in zip(*seconds.values(), strict=True)]
    rows.append({"what": "mini_moe beyond torch"} | spread(beyond))
    rows.append(
        {"what": "tour: Run All to first routing picture"}
        | spread([seconds_to_first_picture() for _ in range(rounds)])
    )
    report("start_up", "python -m tests.benchmarks.run start_up", rows)


def run(code: str) -> None:
    """Run one line in a fresh interpreter."""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def seconds_to_first_picture(path: Path = TOUR) -> float:
    """Return the seconds from the first cell to the end of the one with the routing explorer.

    The kernel has just started.
    """
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, resources={"metadata": {"path": str(path.parent)}})
    with client.setup_kernel():
        start = time.perf_counter()
        for index, cell in enumerate(notebook.cells):
            if cell.cell_type != "code":
                continue
            client.execute_cell(cell, index)
            if "explore_routing(" in cell.source:
                return time.perf_counter() - start
    raise ValueError(f"path: {path} has no cell that calls explore_routing")
