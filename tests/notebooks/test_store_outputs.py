"""Check what `make notebooks` stores, on small notebooks written here."""

import base64
import json

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from tests.browser.chromium import MISSING, find_chromium
from tests.notebooks import static_outputs, store_outputs

pytestmark = pytest.mark.slow

FIGURE = """import plotly.graph_objects as go, plotly.io as pio, ipywidgets as w
pio.renderers.default = "plotly_mimetype"
go.Figure(go.Bar(y=[1, 2]), layout={"title": "Two bars"})"""
WIDGETS = """bars = go.FigureWidget(go.Bar(y=[1, 2]), layout={"width": 400, "height": 300})
bars.layout.title.text = "Changing bars"
log = w.Output()
with log:
    print("from the log")
    display(w.HTML("<i>in the log</i>"))
hidden = w.HTML("hidden")
hidden.layout.display = "none"
slider = w.IntSlider(value=3, description="layer")
buttons = w.HBox([w.Button(description="Go")])
w.VBox([w.HTML("<b>bold</b>"), w.HTML(""), slider, bars, buttons, log, hidden])"""
LATER = """bars.data[0].y = [5, 5, 5]
bars.layout.title.text = "Changed bars"
slider.value = 7"""
PROGRESS = """from tqdm.notebook import tqdm
for _ in tqdm(range(2)):
    pass
print("done")"""


@pytest.fixture(scope="module")
def drawing():
    if find_chromium() is None:
        pytest.skip(MISSING)
    with static_outputs.drawing(find_chromium()):
        yield


def write(path, *sources):
    cells = [new_code_cell(source, id=f"cell-{n}") for n, source in enumerate(sources)]
    nbformat.write(new_notebook(cells=[new_markdown_cell("# A", id="head"), *cells]), path)
    return path


@pytest.fixture(scope="module")
def stored(drawing, tmp_path_factory):
    path = write(
        tmp_path_factory.mktemp("stored") / "sample.ipynb",
        FIGURE,
        WIDGETS,
        LATER,
        PROGRESS,
        "6 * 7",
    )
    assert store_outputs.store(path)
    return path


def outputs(path, number):
    return nbformat.read(path, as_version=4).cells[number].outputs


def test_a_figure_becomes_a_small_picture_with_its_title(stored):
    (output,) = outputs(stored, 1)
    assert set(output.data) == {"text/html", "text/plain"}
    image = BeautifulSoup(output.data["text/html"], "html.parser").img
    png = base64.b64decode(image["src"].removeprefix("data:image/png;base64,"))
    assert png.startswith(b"\x89PNG") and len(png) <= static_outputs.MAX_PICTURE_BYTES
    assert image["alt"] == output.data["text/plain"] == "Two bars"


def test_a_container_is_stored_in_order_and_in_its_last_state(stored):
    shown = [output.get("text") or output.data["text/plain"] for output in outputs(stored, 2)]
    controls = ["bold", "layer: 7"]
    log = ["from the log\n", "in the log"]
    assert shown == [*controls, "Changed bars", "[Go]", *log]


def test_no_widget_and_no_interactive_payload_is_left(stored):
    text = stored.read_text()
    assert static_outputs.WIDGET not in text and static_outputs.PLOTLY not in text
    assert "widgets" not in json.loads(text)["metadata"]


def test_progress_bars_vanish_and_results_stay(stored):
    assert [output.text for output in outputs(stored, 4)] == ["done\n"]
    assert outputs(stored, 5)[0].data["text/plain"] == "42"
    assert nbformat.read(stored, as_version=4).cells[5].execution_count == 5


def test_storing_twice_gives_the_same_bytes(stored):
    first = stored.read_bytes()
    assert store_outputs.store(stored)
    assert stored.read_bytes() == first


def test_a_failing_notebook_stays_as_it_was_and_names_the_cell(tmp_path, capsys):
    path = write(tmp_path / "failing.ipynb", "1", "1 / 0")
    before = path.read_bytes()
    assert not store_outputs.store(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    message = capsys.readouterr().err
    assert "failing.ipynb: cell 2 (id cell-1) failed" in message
    assert "ZeroDivisionError" in message


def test_a_huge_output_is_refused(tmp_path, capsys):
    path = write(tmp_path / "huge.ipynb", "'x' * 200_000")
    assert not store_outputs.store(path)
    assert "cell 1 (id cell-0): text/plain of 200002 bytes" in capsys.readouterr().err


def test_a_figure_without_words_is_refused(tmp_path, capsys):
    path = write(tmp_path / "mute.ipynb", FIGURE.replace("Two bars", ""))
    assert not store_outputs.store(path)
    message = "cell 1 (id cell-0): a figure has neither a summary nor a title"
    assert message in capsys.readouterr().err


def test_a_summary_describes_a_figure_better_than_its_title():
    layout = {"title": {"text": "Load"}, "meta": {"summary": "Expert 5 is the busiest."}}
    assert static_outputs.caption(layout) == "Expert 5 is the busiest."
    assert static_outputs.caption({"title": {"text": "Load"}}) == "Load"


def test_without_a_browser_nothing_is_stored(monkeypatch, capsys):
    monkeypatch.setattr(store_outputs, "find_chromium", lambda: None)
    assert store_outputs.main([]) == 1
    assert "no Chromium found" in capsys.readouterr().err
