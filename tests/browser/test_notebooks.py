"""Every notebook opens in JupyterLab, offline, and runs from top to bottom."""

from pathlib import Path

import pytest

pytestmark = pytest.mark.browser

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
TOUR = "00_tour.ipynb"
STAGE = "11_live_demo.ipynb"  # covered by test_stage
FIGURE = ".js-plotly-plot"


@pytest.mark.parametrize(
    "name", [path.name for path in NOTEBOOKS if path.name not in (TOUR, STAGE)]
)
def test_run_all_works_in_the_browser(page, name):
    page.open_notebook(f"notebooks/{name}")
    page.run_all(seconds=300)
    page.assert_clean()


@pytest.mark.skipif(TOUR not in [path.name for path in NOTEBOOKS], reason="no tour yet")
def test_tour_runs_and_shows_a_routing_view(page, request):
    page.open_notebook(f"notebooks/{TOUR}")
    page.run_all(seconds=300)
    view = page.tab.locator(FIGURE).first
    view.scroll_into_view_if_needed()
    view.wait_for(state="visible")
    page.assert_clean()
    if picture := request.config.getoption("--tour-picture"):
        cell = page.tab.locator(".jp-CodeCell", has=view).first
        cell.screenshot(path=picture)
