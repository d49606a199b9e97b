"""Latency of the stage of 11_live_demo in a browser, from an input event to the changed data."""

import argparse
import statistics
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from tests.benchmarks.common import ROOT, report, spread
from tests.browser.chromium import FLAGS, MISSING, find_chromium
from tests.browser.lab_page import LabPage
from tests.browser.lab_server import start_lab
from tests.browser.stage_page import NOTEBOOK, StagePage

COMMAND = "python -m tests.benchmarks.run explorer"


def main(rounds: int = 5, events: int = 300) -> None:
    """Measure, print, write results/explorer.json: milliseconds, and memory over many events.

    Raises: ValueError if there is no Chromium.
    """
    chromium = find_chromium()
    if chromium is None:
        raise ValueError(f"explorer: {MISSING}")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        server = start_lab(Path(folder), ROOT / "notebooks")
        try:
            browser = playwright.chromium.launch(
                executable_path=chromium, headless=True, args=list(FLAGS)
            )
            viewport = {"width": 1280, "height": 1600}
            page = LabPage(browser.new_context(viewport=viewport).new_page(), server)
            page.open_notebook(NOTEBOOK)
            page.run_all(seconds=300)
            rows, memory = measure(StagePage(page), rounds, events)
            page.assert_clean()
            browser.close()
        finally:
            server.stop()
    report("explorer", COMMAND, rows, tokens=64, unit="ms", **memory)


def measure(stage: StagePage, rounds: int, events: int) -> tuple[list[dict], dict]:
    """Return the latency of every kind of change, and memory before and after random events."""
    stage.latencies(rounds=1)  # the first change of each kind compiles and allocates
    took = stage.latencies(rounds)
    rows = [{"change": name, "count": len(v)} | spread(v) for name, v in took.items()]
    every = [value for values in took.values() for value in values]
    rows.append({"change": "all", "count": len(every)} | spread(every))
    python = statistics.median(float(stage.ask("print(stage.milliseconds)")) for _ in range(3))
    stage.random_events(100, seed=1)
    stage.settle()
    heap, kernel = stage.heap_megabytes(), stage.kernel_megabytes()
    stage.random_events(events, seed=2)
    stage.settle()
    after = {
        "page_mb": [heap, stage.heap_megabytes()],
        "kernel_mb": [kernel, stage.kernel_megabytes()],
    }
    print(f"{events} random events after 100 others: {after}")
    return rows, after | {"events": events, "python_ms_of_the_last_change": python}


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=5)
    main(options.parse_args().rounds)
