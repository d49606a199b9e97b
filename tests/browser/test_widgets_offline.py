"""Plotly figures and ipywidgets work in JupyterLab offline, and the harness notices faults."""

import nbformat
import pytest

pytestmark = pytest.mark.browser

RENDERER = """import plotly.graph_objects as go, plotly.io as pio
pio.renderers.default = "plotly_mimetype"
"""

CELLS = (
    RENDERER
    + """import ipywidgets
pio.templates["quiet"] = go.layout.Template(layout={"modebar": {"remove": ["sendChartToCloud"]}})
pio.templates.default = "plotly+quiet"
go.Figure(go.Bar(x=["a", "b"], y=[1, 2]))""",
    """slider = ipywidgets.IntSlider(value=1, max=9, description="height")
view = go.FigureWidget(go.Bar(x=["a", "b"], y=[1, 2]), layout={"width": 500, "height": 300})

def redraw(change):
    with view.batch_update():
        view.data[0].y = [change["new"], 2]

slider.observe(redraw, names="value")
ipywidgets.VBox([slider, view])""",
)

BAR_HEIGHTS = """() => [...document.querySelectorAll('.js-plotly-plot')]
  .map(plot => Array.from(plot.data[0].y))"""


# Without a kernel name, JupyterLab stops and asks for one.
METADATA = {"kernelspec": {"name": "python3", "display_name": "Python 3 (ipykernel)"}}


def write_notebook(lab, name, *sources):
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    notebook = nbformat.v4.new_notebook(cells=cells, metadata=METADATA)
    nbformat.write(notebook, lab.folder / name)


def test_slider_moved_by_keyboard_changes_the_figure(page, lab):
    write_notebook(lab, "widgets.ipynb", *CELLS)
    page.open_notebook("widgets.ipynb")
    page.run_all()
    page.tab.wait_for_function("document.querySelectorAll('.js-plotly-plot').length === 2")
    slider = page.tab.locator(".widget-slider [role=slider], .noUi-handle").first
    slider.focus()
    for _ in range(3):
        page.tab.keyboard.press("ArrowRight")
    page.tab.wait_for_function(f"JSON.stringify(({BAR_HEIGHTS})()) === '[[1,2],[4,2]]'")
    page.assert_clean()


def test_a_failing_cell_is_reported(page, lab):
    write_notebook(lab, "failing.ipynb", "1 / 0")
    page.open_notebook("failing.ipynb")
    with pytest.raises(AssertionError, match="cell 0: ZeroDivisionError"):
        page.run_all()


def test_a_share_button_is_noticed(page, lab):
    write_notebook(lab, "share.ipynb", f"{RENDERER}\ngo.Figure(go.Bar(y=[1]))")
    page.open_notebook("share.ipynb")
    page.run_all()
    page.tab.wait_for_selector(".js-plotly-plot .modebar-btn", state="attached")
    with pytest.raises(AssertionError, match="1 figures show a 'Share chart' button"):
        page.assert_clean()


def test_an_outside_request_is_stopped_and_recorded(page, lab):
    page.tab.goto(f"{lab.origin}/login")
    page.tab.evaluate("() => fetch('https://example.invalid/x').catch(() => 0)")
    assert page.outside_requests == ["https://example.invalid/x"]
