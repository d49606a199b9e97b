"""The committed notebooks contain what nbval compares, and nothing that bloats them."""

import json
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbconvert import HTMLExporter

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
CHECKED = "nbval-check-output"
# Tags and comments that make nbval skip a cell or accept an error.
SKIPPING = ("nbval-skip", "nbval-raises-exception", "raises-exception")
INTERACTIVE = ("application/vnd.jupyter.widget-view+json", "application/vnd.plotly.v1+json")

# The minimum number of code cells nbval must collect. Raise a number with its notebook; never
# lower it without saying in the commit where the lesson went.
FEWEST_CODE_CELLS = {
    "00_tour": 17,
    "01_data": 26,
    "02_attention": 27,
    "03_experts": 27,
    "04_router": 32,
    "05_model": 28,
    "06_train": 29,
    "07_balance": 32,
    "08_bugs": 32,
    "09_moe_vs_dense": 30,
    "10_routing": 32,
    "11_live_demo": 7,
    "12_kernels": 34,
    "13_profile": 31,
    "15_inference": 32,
    "17_long_context": 30,
}


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    """Return each committed notebook; its name is in notebook.metadata.name."""
    content = nbformat.read(request.param, as_version=4)
    content.metadata.name = request.param.stem
    return content


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def checked_cells(notebook):
    return [cell for cell in code_cells(notebook) if CHECKED in cell.metadata.get("tags", [])]


def test_at_least_three_cells_are_compared(notebook):
    assert len(checked_cells(notebook)) >= 3


def test_every_compared_cell_was_executed_and_shows_something(notebook):
    for cell in checked_cells(notebook):
        assert cell.execution_count is not None, f"never executed:\n{cell.source}"
        assert cell.outputs, f"nothing to compare:\n{cell.source}"


def test_all_cells_were_executed_in_order(notebook):
    counts = [cell.execution_count for cell in code_cells(notebook) if cell.source.strip()]
    assert counts == list(range(1, len(counts) + 1)), "run `make notebooks` again"


def test_no_cell_is_skipped_or_allowed_to_fail(notebook):
    for cell in code_cells(notebook):
        forbidden = set(SKIPPING) & set(cell.metadata.get("tags", []))
        comments = [tag for tag in SKIPPING if tag.upper().replace("-", "_") in cell.source]
        assert not forbidden and not comments, f"{forbidden or comments} in:\n{cell.source}"


def test_no_error_is_stored(notebook):
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    assert [output.evalue for output in outputs if output.output_type == "error"] == []


def test_nothing_interactive_is_stored(notebook):
    assert "widgets" not in notebook.metadata
    for cell in code_cells(notebook):
        for output in cell.outputs:
            kinds = set(INTERACTIVE) & set(output.get("data", {}))
            assert not kinds, f"{kinds} is stored; run `make notebooks`:\n{cell.source}"


def test_no_output_is_large(notebook):
    for cell in code_cells(notebook):
        for output in cell.outputs:
            assert len(json.dumps(output)) < 120_000, f"a large output:\n{cell.source}"


def test_every_picture_says_in_words_what_it_shows(notebook, caplog):
    page, _ = HTMLExporter().from_notebook_node(notebook)
    assert "Alternative text is missing" not in caplog.text, "run `make notebooks`"
    pictures = BeautifulSoup(page, "html.parser").find_all("img")
    assert all(len(picture["alt"].split()) > 1 for picture in pictures)


def test_no_lesson_loses_cells(notebook):
    name, count = notebook.metadata.name, len(code_cells(notebook))
    assert name in FEWEST_CODE_CELLS, f'add "{name}": {count} to FEWEST_CODE_CELLS in {__file__}'
    assert count >= FEWEST_CODE_CELLS[name]


def test_no_entry_is_for_a_missing_notebook():
    assert set(FEWEST_CODE_CELLS) <= {path.stem for path in NOTEBOOKS}


def test_cell_ids_are_unique(notebook):
    ids = [cell.id for cell in notebook.cells]
    assert len(ids) == len(set(ids))


def test_a_lesson_stays_readable(notebook):
    assert len(notebook.cells) <= 60
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert len(cell.source.splitlines()) <= 30, cell.source
        else:
            assert len(cell.source.split()) <= 120, cell.source


@pytest.mark.parametrize("forbidden", ["!pip", "%pip", "input(", "sys.path", "filterwarnings"])
def test_a_lesson_runs_as_it_is(notebook, forbidden):
    for cell in code_cells(notebook):
        assert forbidden not in cell.source, cell.source
