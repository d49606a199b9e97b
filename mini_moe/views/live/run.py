"""A training run in a thread and a view that draws it; a cell can await its end."""

import asyncio
import threading
import time
from collections.abc import Callable, Generator
from typing import Any

from mini_moe.views.live.messages import messages_answered
from mini_moe.views.style import error_html, summary_of

SECONDS_BETWEEN_DRAWINGS = 0.25


class LiveView:
    """Base of the live training views: records, a Stop button, visible errors.

    `update` may be called from any thread and at every step; it draws at most four times per
    second. Subclasses set `figure` and `view`, and draw all records in `show_records`.
    """

    def __init__(self) -> None:
        import ipywidgets as widgets

        self.records: list[dict[str, Any]] = []
        self.stop = threading.Event()
        self._lock, self._drawn = threading.RLock(), 0.0
        self.status, self.error = widgets.HTML("Waiting for the first step …"), widgets.HTML()
        self.button = widgets.Button(
            description="Stop", button_style="danger", icon="stop", disabled=False,
            tooltip="Stop training after this step and keep the model",
        )  # fmt: skip
        self.button.on_click(lambda button: self.request_stop())

    def request_stop(self) -> None:
        """End the run after its current step; the button calls this."""
        self.stop.set()
        self.button.disabled, self.button.description = True, "Stopping …"

    def update(self, record: dict[str, Any]) -> None:
        """Add one log record; redraw if the last drawing is old enough."""
        with self._lock:
            self.records.append(record)
        if time.monotonic() - self._drawn >= SECONDS_BETWEEN_DRAWINGS:
            self.draw()

    def draw(self) -> None:
        """Draw all records; an exception is shown in the view and doesn't stop training."""
        with self._lock:
            self._drawn = time.monotonic()
            if not self.records:
                return
            try:
                self.show_records()
                self.error.value = ""
            except Exception as error:
                self.error.value = error_html(error)

    def finish(self, error: BaseException | None = None) -> None:
        """Draw the last records and disable the button; show the error if the run failed."""
        self.draw()
        self.button.disabled = True
        self.button.description = "Stopped" if self.stop.is_set() else "Done"
        self.button.button_style = ""
        if error is not None:
            self.button.description, self.error.value = "Failed", error_html(error)

    def __repr__(self) -> str:
        return summary_of(self.figure)

    def _repr_mimebundle_(self, **named: Any) -> dict[str, Any]:
        return (self.view._repr_mimebundle_(**named) or {}) | {"text/plain": repr(self)}


class LiveRun:
    """A training run in its own thread; `await` it in a notebook, or call `result`."""

    def __init__(self, dashboard: LiveView, work: Callable[[], Any]) -> None:
        self.dashboard, self._work = dashboard, work
        self._outcome: Any = None
        self._error: BaseException | None = None
        # An event, since Thread.join mistakes an interrupted wait for the end of the thread.
        self._ended = threading.Event()
        threading.Thread(target=self._run, name="training", daemon=True).start()

    def _run(self) -> None:
        try:
            self._outcome = self._work()
        except BaseException as error:
            self._error = error
        try:
            self.dashboard.finish(self._error)
        finally:
            self._ended.set()

    @property
    def is_running(self) -> bool:
        """True until the last step, a stop or an error."""
        return not self._ended.is_set()

    def stop(self) -> None:
        """End the run after its current step, like the Stop button."""
        self.dashboard.request_stop()

    def __await__(self) -> Generator[Any, None, Any]:
        """Wait for the end in a notebook: `run = await live` gives the return value of `train`.

        The notebook stays responsive: Stop and the sliders work. Jupyter's own ■ also ends the
        training after its current step.
        Raises: any exception that stopped the training.
        """
        try:
            with messages_answered():
                while self.is_running:
                    yield from asyncio.sleep(0.05).__await__()
        except (KeyboardInterrupt, asyncio.CancelledError):
            self._stopped_by_hand()
        return self._given()

    def result(self) -> Any:
        """Wait for the end and return the result of `train`; for programs outside a notebook.

        In a notebook, `await` the run instead: a cell that waits here keeps the Stop button's
        message from arriving. ■ (KeyboardInterrupt) ends the training after its current step; a
        second one gives up waiting.
        Raises: any exception that stopped the training.
        """
        try:
            self._wait()
        except KeyboardInterrupt:
            self._stopped_by_hand()
        return self._given()

    def _stopped_by_hand(self) -> None:
        self.stop()
        print("Training stops after this step. The lesson goes on with the model so far.")
        self._wait()

    def _given(self) -> Any:
        if self._error is not None:
            raise self._error
        return self._outcome

    def _wait(self) -> None:
        while not self._ended.wait(0.1):  # an unlimited wait could not be interrupted
            pass


def run_live(view: LiveView, work: Callable[[], Any]) -> LiveRun:
    """Show a view and run `work` in a thread; `await` the result in the next cell.

    Until then the notebook stays responsive: the figure updates and the Stop button works.
    Without a browser, the same work is done.
    """
    try:
        from IPython.display import display

        display(view)
    except ImportError:  # a plain Python program: no view, the same run
        pass
    return LiveRun(view, work)
