"""One browser tab with JupyterLab: open a notebook, run it and report what went wrong."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from playwright.sync_api import Page, Route

from tests.browser.lab_server import LabServer

READY_MS = 90_000
SHARE_BUTTON = ".modebar-btn[data-title^='Share chart']"

# Each script races against a timer: an evaluated promise has no time limit of its own.
RACE = """async milliseconds => {
  const late = new Promise(resolve => setTimeout(() => resolve('late'), milliseconds));
  return await Promise.race([(%s)().then(() => 'done'), late]);
}"""

# Without this wait, a first run can stall: cells sent before the kernel connects are lost.
WAIT_FOR_NOTEBOOK = """async () => {
  const app = window.jupyterapp;
  await app.restored;
  const pause = () => new Promise(resolve => setTimeout(resolve, 50));
  while (!app.shell.currentWidget?.context?.sessionContext) await pause();
  const context = app.shell.currentWidget.context;
  await context.ready;
  await context.sessionContext.ready;
  const kernel = () => context.sessionContext.session?.kernel;
  while (kernel()?.status !== 'idle' || kernel()?.connectionStatus !== 'connected') await pause();
}"""

RUN_ALL = "async () => await window.jupyterapp.commands.execute('notebook:run-all-cells')"

OUTPUTS = """() => {
  const cells = window.jupyterapp.shell.currentWidget.context.model.toJSON().cells;
  return JSON.stringify(cells.map(cell => cell.outputs || []));
}"""


@dataclass
class LabPage:
    """A tab, with everything suspicious it did."""

    tab: Page
    server: LabServer
    outside_requests: list[str] = field(default_factory=list)
    console_errors: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tab.route("**/*", self._let_local_pass)
        self.tab.on("websocket", lambda socket: self._note_outside(socket.url))
        self.tab.on("pageerror", lambda error: self.console_errors.append(f"uncaught: {error}"))
        self.tab.on("console", self._note_console)

    def open_notebook(self, path: str) -> None:
        """Open `path`, relative to the server's root, and wait for an idle kernel."""
        self.tab.set_default_timeout(READY_MS)
        self.tab.goto(self.server.notebook_url(path))
        self.tab.wait_for_function("window.jupyterapp !== undefined")
        self.tab.wait_for_selector("#jupyterlab-splash", state="detached")
        outcome = self.tab.evaluate(RACE % WAIT_FOR_NOTEBOOK, READY_MS)
        assert outcome == "done", f"{path} had no idle kernel within {READY_MS / 1000:.0f} s"

    def run_all(self, seconds: float = 180) -> None:
        """Run every cell; fail on a timeout or if a cell raised."""
        outcome = self.tab.evaluate(RACE % RUN_ALL, seconds * 1000)
        assert outcome == "done", f"Run All did not end within {seconds} s"
        errors = self.cell_errors()
        assert not errors, "\n".join(errors)

    def outputs(self) -> list[list[dict]]:
        """Return the outputs of every cell, as the notebook would store them."""
        return json.loads(self.tab.evaluate(OUTPUTS))

    def cell_errors(self) -> list[str]:
        """Return 'cell 3: ValueError: ...' for every error output."""
        return [
            f"cell {number}: {output['ename']}: {output['evalue']}"
            for number, outputs in enumerate(self.outputs())
            for output in outputs
            if output["output_type"] == "error"
        ]

    def assert_clean(self) -> None:
        """Assert that nothing left the machine, nothing failed and no figure offers an upload."""
        assert not self.outside_requests, f"requests to the outside: {self.outside_requests}"
        assert not self.console_errors, f"errors in the console: {self.console_errors}"
        share_buttons = self.tab.locator(SHARE_BUTTON).count()
        assert share_buttons == 0, f"{share_buttons} figures show a 'Share chart' button"
        broken = self.tab.get_by_text("Error displaying widget").count()
        assert broken == 0, f"{broken} widgets could not be displayed"

    def screenshot(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.tab.screenshot(path=str(path))

    def shut_down_kernels(self) -> None:
        for session in json.loads(self.server.request("GET", "/api/sessions")):
            self.server.request("DELETE", f"/api/sessions/{session['id']}")

    def _let_local_pass(self, route: Route) -> None:
        url = route.request.url
        if self._note_outside(url):
            route.abort()
        else:
            route.continue_()

    def _note_outside(self, url: str) -> bool:
        host = self.server.origin.removeprefix("http")
        local = (f"http{host}/", f"ws{host}/", "data:", "blob:")
        if outside := not url.startswith(local):
            self.outside_requests.append(url)
        return outside

    def _note_console(self, message) -> None:
        if message.type == "error":
            where = message.location.get("url", "")
            self.console_errors.append(f"{message.text} ({where})")
