"""A training run before the reader's eyes: loss, balance, load and domains, with a Stop button."""

import asyncio
import threading
import time
from collections.abc import Callable, Generator
from typing import Any

from plotly.subplots import make_subplots

from mini_moe.config import ModelConfig, TrainConfig
from mini_moe.routing import noise_floor
from mini_moe.training import train
from mini_moe.views.style import (
    ACCENT,
    OKABE_ITO,
    QUIET,
    TEMPLATE,
    as_widget,
    error_html,
    set_summary,
    summary_of,
)

SECONDS_BETWEEN_DRAWINGS = 0.25
MAX_POINTS = 400  # of a curve; of longer runs every second, third ... point is drawn
WIDTH, HEIGHT = 840, 580
LOSS, VIOLATION, FLOOR, LOAD, EVEN, DOMAINS = range(6)  # traces of the figure, in their order


class LiveView:
    """What the views of a running training share: its records, a Stop button, visible errors.

    `update` may be called from any thread, as often as there are steps; it draws at most four
    times a second. A view has a `figure` and a `view`, and draws all its records in `show_records`.
    """

    def __init__(self) -> None:
        import ipywidgets as widgets

        self.records: list[dict[str, Any]] = []
        self.stop = threading.Event()
        self._lock, self._drawn = threading.RLock(), 0.0
        self.status, self.error = widgets.HTML("Waiting for the first step …"), widgets.HTML()
        self.button = widgets.Button(
            description="Stop", button_style="danger", icon="stop", disabled=False,
            tooltip="End the training after this step and keep the model",
        )  # fmt: skip
        self.button.on_click(lambda button: self.request_stop())

    def request_stop(self) -> None:
        """What the button does: the run ends after its current step."""
        self.stop.set()
        self.button.disabled, self.button.description = True, "Stopping …"

    def update(self, record: dict[str, Any]) -> None:
        """Take one log record; draw if the last drawing is old enough."""
        with self._lock:
            self.records.append(record)
        if time.monotonic() - self._drawn >= SECONDS_BETWEEN_DRAWINGS:
            self.draw()

    def draw(self) -> None:
        """Draw all records; an exception is shown in the view and does not stop the training."""
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
        """Draw the last records and close the button; show why a run failed."""
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


class TrainingDashboard(LiveView):
    """The widgets (`view`) that draw what `update` is told, records of `mini_moe.training.train`.

    `stop` is set by the Stop button.
    """

    def __init__(self, model_config: ModelConfig, train_config: TrainConfig) -> None:
        import ipywidgets as widgets

        super().__init__()
        self.model_config, self.train_config = model_config, train_config
        self.figure = as_widget(empty_dashboard(model_config, train_config))
        wide = {"width": "260px"}
        self.bar = widgets.IntProgress(max=train_config.steps, layout=wide, description="Step")
        layers = list(range(model_config.n_dense_layers, model_config.n_layers))
        self.layer = widgets.SelectionSlider(
            options=layers or [0], description="Layer", layout=wide, disabled=not layers
        )
        self.layer.observe(lambda change: self.draw(), names="value")
        controls = widgets.HBox([self.button, self.bar, self.layer])
        self.view = widgets.VBox([controls, self.status, self.error, self.figure])

    def show_records(self) -> None:
        """Figure, status line and bar as of the newest record."""
        with self.figure.batch_update():
            place = self.layer.options.index(self.layer.value)
            draw_records(self.figure, self.records, place)
        self.status.value = status_line(self.records, self.train_config.steps)
        self.bar.value = int(self.records[-1]["step"])


def empty_dashboard(model_config: ModelConfig, train_config: TrainConfig) -> Any:
    """The four fields before the first step."""
    titles = ("Training loss", "MaxVio, mean of the layers", "Expert load",
              "Validation loss per domain")  # fmt: skip
    figure = make_subplots(
        2, 2, subplot_titles=titles, vertical_spacing=0.16, horizontal_spacing=0.16
    )
    figure.update_layout(
        template=TEMPLATE, width=WIDTH, height=HEIGHT, showlegend=False, bargap=0.2,
        margin={"l": 60, "r": 20, "t": 40, "b": 50}, meta={"summary": "No step has been made yet."},
    )  # fmt: skip
    n_experts = model_config.n_routed_experts if model_config.n_moe_layers else 0
    experts = list(range(n_experts))
    figure.add_scatter(x=[], y=[], name="loss", line_color=OKABE_ITO[0], row=1, col=1)
    figure.add_scatter(x=[], y=[], name="MaxVio", line_color=OKABE_ITO[0], row=1, col=2)
    dashed = {"color": QUIET, "dash": "dot", "width": 2}
    floor = []
    if n_experts:
        choices = train_config.batch_size * train_config.seq_len * model_config.top_k
        floor = [noise_floor(n_experts, float(choices / n_experts))] * 2
    figure.add_scatter(
        x=[0, train_config.steps] if floor else [], y=floor, name="by chance", mode="lines",
        line=dashed, row=1, col=2,
    )  # fmt: skip
    figure.add_bar(x=experts, y=[0] * n_experts, marker_color=OKABE_ITO[0], row=2, col=1)
    figure.add_scatter(
        x=[-0.5, n_experts - 0.5] if experts else [], y=[1 / n_experts] * 2 if experts else [],
        name="even share", mode="lines", line={"color": "#000000", "dash": "dash"}, row=2, col=1,
    )  # fmt: skip
    figure.add_bar(x=[], y=[], orientation="h", marker_color=OKABE_ITO[2], row=2, col=2)
    figure.data[DOMAINS].update(textposition="inside", textfont={"color": "#FFFFFF"})
    for column, title in ((1, "step"), (2, "step · dotted: chance alone")):
        figure.update_xaxes(title_text=title, range=[0, train_config.steps], row=1, col=column)
    figure.update_xaxes(title_text="expert · dashed: even share", row=2, col=1)
    figure.update_yaxes(tickformat=".0%", rangemode="tozero", row=2, col=1)
    figure.update_yaxes(rangemode="tozero", row=1, col=2)
    figure.update_xaxes(title_text="nats a token", rangemode="tozero", row=2, col=2)
    return figure


def draw_records(figure: Any, records: list[dict[str, Any]], layer_place: int = 0) -> None:
    """Put a log into the dashboard's figure."""
    every = -(-len(records) // MAX_POINTS)
    kept = records[::-1][::every][::-1]  # the newest record is always among them
    figure.data[LOSS].update(x=[r["step"] for r in kept], y=[r["loss"] for r in kept])
    balanced = [r for r in kept if "max_violation" in r]
    figure.data[VIOLATION].update(
        x=[r["step"] for r in balanced], y=[mean_violation(r) for r in balanced]
    )
    last = records[-1]
    if "load" in last:
        load = last["load"][layer_place]
        even = 1 / len(load)
        colours = [ACCENT if share == max(load) else OKABE_ITO[0] for share in load]
        figure.data[LOAD].update(y=list(load), marker_color=colours)
        figure.data[EVEN].y = [even, even]
    evaluations = [r["validation"] for r in records if r.get("validation")]
    if evaluations:
        domains = evaluations[-1]
        figure.data[DOMAINS].update(
            x=list(domains.values()), y=list(domains), text=[f"{v:.2f}" for v in domains.values()]
        )
    set_summary(figure, records_summary(records))


def mean_violation(record: dict[str, Any]) -> float:
    """MaxVio of a record: the mean over its layers."""
    values = record["max_violation"]
    return sum(values) / len(values) if isinstance(values, list | tuple) else float(values)


def records_summary(records: list[dict[str, Any]]) -> str:
    """A log in one sentence."""
    first, last = records[0], records[-1]
    balance = f", MaxVio is {mean_violation(last):.2f}" if "max_violation" in last else ""
    return (
        f"From step {first['step']} to {last['step']} the training loss went from "
        f"{first['loss']:.2f} to {last['loss']:.2f}{balance}."
    )


def status_line(records: list[dict[str, Any]], steps: int) -> str:
    """Step, loss, speed, time left."""
    last = records[-1]
    recent = records[-20:]
    rates = [r["tokens_per_second"] for r in recent if r.get("tokens_per_second")]
    parts = [f"<b>step {last['step']} of {steps}</b>", f"loss {last['loss']:.3f}"]
    if rates:
        parts.append(f"{sum(rates) / len(rates):,.0f} tokens/s")
    if last.get("seconds") and last["step"] < steps:
        left = last["seconds"] / last["step"] * (steps - last["step"])
        parts.append(f"about {left:.0f} s left")
    elif last.get("seconds"):
        parts.append(f"{last['seconds']:.0f} s")
    return " · ".join(parts)


class LiveRun:
    """A training run in its own thread; `await` it in a notebook, or call `result`."""

    def __init__(self, dashboard: LiveView, work: Callable[[], Any]) -> None:
        self.dashboard, self._work = dashboard, work
        self._outcome: Any = None
        self._error: BaseException | None = None
        # An event instead of Thread.join, which takes an interrupted wait for the thread's end.
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
        """True until the last step, the Stop button or an error."""
        return not self._ended.is_set()

    def stop(self) -> None:
        """End the run after its current step, as the button does."""
        self.dashboard.request_stop()

    def __await__(self) -> Generator[Any, None, Any]:
        """`run = await live` waits for the end and gives what `train` returned.

        Meanwhile the notebook stays alive: Stop and the sliders are heard. Jupyter's own ■ ends the
        training after its step, too.
        Raises: whatever stopped the training.
        """
        try:
            while self.is_running:
                yield from asyncio.sleep(0.05).__await__()
        except (KeyboardInterrupt, asyncio.CancelledError):
            self._stopped_by_hand()
        return self._given()

    def result(self) -> Any:
        """Wait for the end and return what `train` returned; for programs outside a notebook.

        In a notebook `await` the run instead: a cell that waits here keeps the Stop button's
        message from arriving. ■ (KeyboardInterrupt) ends the training after its step; a second one
        gives up waiting.
        Raises: whatever stopped the training.
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
        while not self._ended.wait(0.1):  # a wait without an end could not be interrupted
            pass


def run_live(view: LiveView, work: Callable[[], Any]) -> LiveRun:
    """Show a view and work in a thread; in the next cell `await` waits for the end.

    Until then the notebook stays alive: the figure moves and the Stop button is heard. Without a
    browser the same is computed.
    """
    try:
        from IPython.display import display

        display(view)
    except ImportError:  # a plain Python program: no view, the same run
        pass
    return LiveRun(view, work)


def train_live(
    model_config: ModelConfig, train_config: TrainConfig, corpus: Any = None, *,
    folder: Any = None, train: Callable[..., Any] = train,
) -> LiveRun:  # fmt: skip
    """Show the dashboard and train in a thread, as `run_live` does; its result is a TrainRun."""
    dashboard = TrainingDashboard(model_config, train_config)
    return run_live(
        dashboard,
        lambda: train(
            model_config, train_config, corpus, folder=folder, on_step=dashboard.update,
            should_stop=dashboard.stop.is_set, progress=False,
        ),
    )  # fmt: skip
