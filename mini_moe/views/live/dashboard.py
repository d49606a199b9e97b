"""A live view of a training run: loss, balance, load and domains, with a Stop button."""

from collections.abc import Callable
from typing import Any

from plotly.subplots import make_subplots

from mini_moe.config import ModelConfig, TrainConfig
from mini_moe.routing import noise_floor
from mini_moe.training import train
from mini_moe.views.live.run import LiveRun, LiveView, run_live
from mini_moe.views.style import (
    ACCENT,
    OKABE_ITO,
    QUIET,
    TEMPLATE,
    as_widget,
    set_summary,
)

MAX_POINTS = 400  # per curve; longer runs draw only every second, third … point
WIDTH, HEIGHT = 840, 580
LOSS, VIOLATION, FLOOR, LOAD, EVEN, DOMAINS = range(6)  # the figure's traces, in order


class TrainingDashboard(LiveView):
    """The widgets (`view`) that draw the records of `mini_moe.training.train` passed to `update`.

    The Stop button sets `stop`.
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
        """Update figure, status line and progress bar to the latest record."""
        with self.figure.batch_update():
            place = self.layer.options.index(self.layer.value)
            draw_records(self.figure, self.records, place)
        self.status.value = status_line(self.records, self.train_config.steps)
        self.bar.value = int(self.records[-1]["step"])


def empty_dashboard(model_config: ModelConfig, train_config: TrainConfig) -> Any:
    """Create the four panels before the first step."""
    titles = ("Training loss", "MaxVio, mean over layers", "Expert load",
              "Validation loss per domain")  # fmt: skip
    figure = make_subplots(
        2, 2, subplot_titles=titles, vertical_spacing=0.16, horizontal_spacing=0.16
    )
    figure.update_layout(
        template=TEMPLATE, width=WIDTH, height=HEIGHT, showlegend=False, bargap=0.2,
        margin={"l": 60, "r": 20, "t": 40, "b": 50}, meta={"summary": "No steps yet."},
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
    figure.update_xaxes(title_text="nats per token", rangemode="tozero", row=2, col=2)
    return figure


def draw_records(figure: Any, records: list[dict[str, Any]], layer_place: int = 0) -> None:
    """Draw a log in the dashboard's figure."""
    every = -(-len(records) // MAX_POINTS)
    kept = records[::-1][::every][::-1]  # always keeps the latest record
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
    """Return a record's MaxVio, averaged over its layers."""
    values = record["max_violation"]
    return sum(values) / len(values) if isinstance(values, list | tuple) else float(values)


def records_summary(records: list[dict[str, Any]]) -> str:
    """Summarize a log in one sentence."""
    first, last = records[0], records[-1]
    balance = f", MaxVio is {mean_violation(last):.2f}" if "max_violation" in last else ""
    return (
        f"From step {first['step']} to {last['step']} the training loss went from "
        f"{first['loss']:.2f} to {last['loss']:.2f}{balance}."
    )


def status_line(records: list[dict[str, Any]], steps: int) -> str:
    """Return step, loss, speed and time left."""
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


def train_live(
    model_config: ModelConfig, train_config: TrainConfig, corpus: Any = None, *,
    folder: Any = None, device: Any = "cpu", train: Callable[..., Any] = train,
) -> LiveRun:  # fmt: skip
    """Show the dashboard and train in a thread, as `run_live` does; the result is a TrainRun.

    `folder` and `device` are those of `train`.
    """
    dashboard = TrainingDashboard(model_config, train_config)
    return run_live(
        dashboard,
        lambda: train(
            model_config, train_config, corpus, folder=folder, device=device,
            on_step=dashboard.update, should_stop=dashboard.stop.is_set, progress=False,
        ),
    )  # fmt: skip
