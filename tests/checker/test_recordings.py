"""Without g++, notebook 12 completes on recorded runs, which match what g++ gives today."""

import json

import nbformat
import pytest
import torch

from mini_moe import checker
from mini_moe.checker import (
    CheckerError,
    NoCompiler,
    compiling,
    files,
    output,
    recordings,
    run_cuda,
    source,
)
from mini_moe.checker.recordings import collecting, packed, unpacked
from tests.checker.record import NOTEBOOK, run_cells, text_of

SCALE = """
__global__ void scale(const float* x, float* y) { y[threadIdx.x] = 2 * x[threadIdx.x]; }
"""


def scale(factor=1.0, y=None):
    return run_cuda(SCALE, grid=1, block=32, x=factor * torch.arange(32.0), y=y or output(32))


@pytest.fixture
def without_compiler(monkeypatch):
    """Simulate a machine without g++."""
    for module in (checker, compiling, files, recordings, source):
        monkeypatch.setattr(module, "why_not", lambda: "there is no g++ here")


def record(monkeypatch, *runs):
    with collecting() as found:
        for run in runs:
            run()
    known = json.loads(text_of(found))
    monkeypatch.setattr(recordings, "recordings", lambda: known)


def test_a_recorded_run_comes_back_whole(monkeypatch, request):
    ran = scale()
    record(monkeypatch, scale)
    request.getfixturevalue("without_compiler")
    again = scale()
    assert again["y"].equal(ran["y"])
    assert (again.kernel, again.traffic, again.trace) == (ran.kernel, ran.traffic, ran.trace)


def test_recorded_reports_are_raised_again(monkeypatch, request):
    def too_short():
        with pytest.raises(CheckerError, match="out of bounds"):
            scale(y=output(31))

    record(monkeypatch, too_short)
    request.getfixturevalue("without_compiler")
    too_short()


def test_what_was_not_recorded_needs_the_compiler(monkeypatch, request):
    record(monkeypatch, scale)
    request.getfixturevalue("without_compiler")
    with pytest.raises(NoCompiler, match="there is no g"):
        scale(factor=3.0)


def test_packing_keeps_every_access():
    trace = scale().trace
    assert unpacked(packed(trace)) == trace


def totals(run):
    """Return every buffer's traffic and the outputs, without lines; or the kinds of errors."""
    if "reports" in run:
        return {kind for kind, *_ in run["reports"]}
    moved = {}
    for _place, _space, access, buffer, _executions, _lanes, *numbers in run["traffic"]:
        before = moved.get((access, buffer), [0] * len(numbers))
        moved[access, buffer] = [x + y for x, y in zip(before, numbers, strict=True)]
    return moved, run["outputs"]


def test_records_are_what_the_notebook_does_today():
    with collecting() as found:
        run_cells(NOTEBOOK)
    known, found = (
        json.loads(recordings.FILE.read_text(encoding="utf-8")),
        json.loads(text_of(found)),
    )
    assert set(known) == set(found), "run `python -m tests.checker.record`"
    for key, run in known.items():
        if run.get("trace", True):  # the ladder is optimised: g++ versions differ in loads
            assert totals(run) == totals(found[key]), "run `python -m tests.checker.record`"


def test_the_notebook_runs_to_its_end_without_a_compiler(without_compiler):
    printed = run_cells(NOTEBOOK)
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    cells = [cell for cell in cells if cell.cell_type == "code"]
    assert printed[0] == "there is no g++ here\n"
    for cell, text in zip(cells, printed, strict=True):
        if "nbval-check-output" in cell.metadata.get("tags", []):
            stored = "".join(out.get("text", "") for out in cell.outputs)
            assert text == stored, cell.source
