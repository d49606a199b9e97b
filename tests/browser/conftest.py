"""Fixtures for the browser tests, which are skipped with a message if there is no Chromium."""

from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

from tests.browser.chromium import FLAGS, MISSING, find_chromium
from tests.browser.lab_page import LabPage
from tests.browser.lab_server import start_lab

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
FAILURES = Path(__file__).with_name("failures")
VIEWPORT = {"width": 1280, "height": 1600}

outcome_key = pytest.StashKey[pytest.TestReport]()


@pytest.fixture(scope="session")
def chromium():
    """Start a headless browser with a fresh profile."""
    path = find_chromium()
    if path is None:
        pytest.skip(MISSING)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, headless=True, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def lab(chromium, tmp_path_factory):
    """Start a JupyterLab with copies of the notebooks, for the whole run."""
    server = start_lab(tmp_path_factory.mktemp("lab"), NOTEBOOKS)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def open_page(chromium, lab):
    """Return a context manager that opens a fresh tab; a failure inside leaves a screenshot."""

    @contextmanager
    def opened(name):
        context = chromium.new_context(viewport=VIEWPORT)
        lab_page = LabPage(context.new_page(), lab)
        try:
            yield lab_page
        except BaseException:
            lab_page.screenshot(FAILURES / f"{name}.png")
            raise
        finally:
            context.close()
            lab_page.shut_down_kernels()

    return opened


@pytest.fixture
def page(open_page, request):
    """Open a fresh tab; a failing test leaves its screenshot in tests/browser/failures/."""
    with open_page(request.node.name) as lab_page:
        yield lab_page
        report = request.node.stash.get(outcome_key, None)
        if report is None or report.failed:
            lab_page.screenshot(FAILURES / f"{request.node.name}.png")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    report = yield
    if report.when == "call":
        item.stash[outcome_key] = report
    return report
