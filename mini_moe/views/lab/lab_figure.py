"""The balance lab's figure: MaxVio over steps, and each arm's current load."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from plotly.subplots import make_subplots
from torch import Tensor

from mini_moe.config import ModelConfig, TrainConfig
from mini_moe.routing import max_violation, noise_floor, relative_load
from mini_moe.views.lab.chance import measures
from mini_moe.views.style import OKABE_ITO, QUIET, TEMPLATE, set_summary

WIDTH, HEIGHT = 830, 560
LINES = ("solid", "dash", "dashdot")  # one per arm; dots are reserved for chance

Logs = Mapping[str, Sequence[dict[str, Any]]]  # arm → its records


def batch_floor(model_config: ModelConfig, train_config: TrainConfig) -> float:
    """Return the noise floor of one training batch."""
    choices = train_config.batch_size * train_config.seq_len * model_config.top_k
    return noise_floor(model_config.n_routed_experts, choices / model_config.n_routed_experts)


def empty_lab(model_config: ModelConfig, train_config: TrainConfig, arms: Sequence[str]) -> Any:
    """Create the panels before step 1; traces: a line per arm, floor, mark, then bars per arm."""
    n_experts = model_config.n_routed_experts
    most = n_experts / model_config.top_k  # relative load if every token takes the same experts
    columns = len(arms)
    figure = make_subplots(
        2, columns, specs=[[{"colspan": columns}, *[None] * (columns - 1)], [{}] * columns],
        subplot_titles=("", *arms), vertical_spacing=0.2, horizontal_spacing=0.05,
        row_heights=[0.5, 0.5], shared_yaxes=True,
    )  # fmt: skip
    figure.update_layout(
        template=TEMPLATE, width=WIDTH, height=HEIGHT, bargap=0.15,
        margin={"l": 60, "r": 20, "t": 40, "b": 50}, meta={"summary": "No steps yet."},
        legend={"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom"},
    )  # fmt: skip
    for n, arm in enumerate(arms):
        figure.add_scatter(
            x=[], y=[], name=arm, mode="lines", row=1, col=1,
            line={"color": OKABE_ITO[n % 7], "dash": LINES[n % 3], "width": 2.5},
        )  # fmt: skip
    steps, floor = train_config.steps, batch_floor(model_config, train_config)
    figure.add_scatter(
        x=[0, steps], y=[floor, floor], name=f"noise floor {floor:.2f}", mode="lines", row=1, col=1,
        line={"color": QUIET, "dash": "dot", "width": 2},
    )  # fmt: skip
    figure.add_scatter(
        x=[], y=[], name="step shown", mode="lines", showlegend=False, hoverinfo="skip", row=1,
        col=1, line={"color": "#000000", "width": 1},
    )  # fmt: skip
    for n, arm in enumerate(arms):
        figure.add_bar(
            x=list(range(n_experts)), y=[0.0] * n_experts, name=arm, showlegend=False, row=2,
            col=n + 1, marker_color=OKABE_ITO[n % 7],
        )  # fmt: skip
        figure.add_hline(
            1.0, line={"color": "#000000", "dash": "dash", "width": 1}, row=2, col=n + 1
        )
        figure.update_xaxes(title_text="expert", row=2, col=n + 1)
    figure.update_xaxes(title_text="step", range=[0, steps], row=1, col=1)
    figure.update_yaxes(title_text="MaxVio of a batch", range=[0, most - 0.8], row=1, col=1)
    figure.update_yaxes(range=[0, most + 0.2], row=2)
    figure.update_yaxes(title_text="load (1 = even)", row=2, col=1)
    return figure


def draw_lab(figure: Any, logs: Logs, place: int, step: int, mark: bool = False) -> None:
    """Draw the lines up to the latest step and the bars at `step`; `place` is the layer's index.

    `mark` adds a vertical line at `step`.
    """
    n_arms = len(logs)
    for n, log in enumerate(logs.values()):
        line, bars = figure.data[n], figure.data[n_arms + 2 + n]
        line.update(
            x=[record["step"] for record in log],
            y=[record["max_violation"][place] for record in log],
        )
        if step <= len(log):
            bars.y = relative_load(load_at(log, step, place)).tolist()
    top = figure.layout.yaxis.range[1]
    figure.data[n_arms + 1].update(x=[step, step] if mark else [], y=[0, top] if mark else [])
    set_summary(figure, lab_summary(logs, place, step))


def load_at(log: Sequence[dict[str, Any]], step: int, place: int) -> Tensor:
    """Return the load per expert of one layer at a step."""
    return torch.tensor(log[step - 1]["load"][place])


def lab_summary(logs: Logs, place: int, step: int) -> str:
    """State the MaxVio of every arm at a step, in one sentence."""
    found = [
        f"{arm} {float(max_violation(load_at(log, step, place))):.2f}"
        for arm, log in logs.items()
        if step <= len(log)
    ]
    return f"MaxVio at step {step}: {', '.join(found)}."


def numbers_html(logs: Logs, place: int, step: int, chance: Tensor) -> str:
    """Return a table of every arm's loss and measures at a step, and those of random routing."""
    names = list(measures(chance))
    head = "".join(f"<th>{name}</th>" for name in ("", "γ", "α", "loss", *names))
    rows = []
    for arm, log in logs.items():
        if step > len(log):
            continue
        record = log[step - 1]
        knobs = [f"{record[f]:g}" for f in ("bias_update_rate", "balance_loss_weight")]
        found = [format_measure(*m) for m in measures(load_at(log, step, place)).items()]
        rows.append((arm, *knobs, f"{record['loss']:.3f}", *found))
    by_chance = [format_measure(*m) for m in measures(chance).items()]
    rows.append(("by chance, on average", "", "", "", *by_chance))
    body = "".join(
        f"<tr><th style='text-align:left'>{name}</th>"
        + "".join(f"<td style='text-align:right;padding:1px 12px'>{v}</td>" for v in values)
        + "</tr>"
        for name, *values in rows
    )
    return f"<table style='font-variant-numeric:tabular-nums'><tr>{head}</tr>{body}</table>"


def format_measure(name: str, value: Tensor) -> str:
    """Format counts as whole numbers, measures with three decimals."""
    return f"{float(value):.0f}" if name == "dead experts" else f"{float(value):.3f}"
