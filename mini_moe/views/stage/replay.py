"""How routing settled during training, replayed from a run's log."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import torch
from plotly.basedatatypes import BaseFigure
from plotly.subplots import make_subplots

from mini_moe.routing import load_entropy, max_violation, noise_floor
from mini_moe.views.stage.picture import Look
from mini_moe.views.style import ACCENT, OKABE_ITO, QUIET, TEMPLATE, set_summary

LOAD, EVEN, VIOLATION, CHANCE, ENTROPY, NOW, NOW_ENTROPY = range(7)  # traces, in order


class History:
    """A run's expert loads: `steps` [records] and `load` [records, layers, experts]."""

    def __init__(self, run_log: str | Path | Sequence[dict[str, Any]]) -> None:
        """Read a log file, a folder that contains `log.jsonl`, or the records themselves.

        Raises: ValueError if no record contains the expert load.
        """
        if isinstance(run_log, str | Path):
            path = Path(run_log)
            path = path / "log.jsonl" if path.is_dir() else path
            run_log = [json.loads(line) for line in path.read_text("utf-8").splitlines() if line]
        records = [record for record in run_log if record.get("load")]
        if not records:
            raise ValueError("run_log: records with expert load expected, found none")
        self.steps = [int(record["step"]) for record in records]
        self.load = torch.tensor([record["load"] for record in records])
        self.violation, self.entropy = max_violation(self.load), load_entropy(self.load)


def replay_picture(history: History, look: Look, choices_per_step: int | None = None) -> go.Figure:
    """Create the empty picture: load, MaxVio, entropy. `choices_per_step` adds chance's MaxVio."""
    n = history.load.shape[-1]
    figure = make_subplots(1, 3, subplot_titles=("Load at step …", "MaxVio", "Entropy of the load"),
                           horizontal_spacing=0.1)  # fmt: skip
    figure.add_bar(name="load", x=np.arange(n), row=1, col=1)
    figure.data[LOAD].marker.pattern.update(fillmode="overlay", fgcolor="#FFFFFF", solidity=0.35)
    figure.add_scatter(name="even share", x=[-0.5, n - 0.5], y=[1 / n] * 2, mode="lines",
                       line={"color": "#000000", "dash": "dash"}, row=1, col=1)  # fmt: skip
    line = {"color": OKABE_ITO[0], "width": 1.5}
    figure.add_scatter(name="MaxVio", x=history.steps, line=line, row=1, col=2)
    floor = noise_floor(n, choices_per_step / n) if choices_per_step else None
    figure.add_scatter(
        name="MaxVio by chance", mode="lines", line={"color": QUIET, "dash": "dot", "width": 2},
        x=[0, history.steps[-1]] if floor else [], y=[floor] * 2 if floor else [], row=1, col=2,
    )  # fmt: skip
    figure.add_scatter(name="entropy", x=history.steps, line=line, row=1, col=3)
    for column in (2, 3):
        figure.add_scatter(name="this step", mode="markers", row=1, col=column,
                           marker={"symbol": "diamond", "color": ACCENT})  # fmt: skip
        figure.update_xaxes(
            title_text="step", range=[0, history.steps[-1] * 1.07], row=1, col=column
        )
    figure.update_layout(template=TEMPLATE, showlegend=False, bargap=0.2, meta={"summary": ""})
    figure.update_xaxes(title_text="expert · dashed: even", row=1, col=1)
    if floor:
        figure.update_xaxes(title_text="step · dotted: chance", row=1, col=2)
    top = 1.05 * float(history.load.max())
    figure.update_yaxes(range=[0, top], tickformat=".0%", row=1, col=1)
    figure.update_yaxes(rangemode="tozero", row=1, col=2)
    resize_replay(figure, look)
    return figure


def resize_replay(figure: BaseFigure, look: Look) -> None:
    """Apply a look's sizes to every part."""
    figure.update_layout(
        width=look.width, height=170 + 9 * look.font, font_size=look.font,
        margin={"l": 4 * look.font + 8, "r": 16, "t": 3 * look.font, "b": 4 * look.font},
    )  # fmt: skip
    figure.update_annotations(font_size=look.font + 2)
    for number in (NOW, NOW_ENTROPY):
        figure.data[number].marker.size = look.font


def draw_replay(
    figure: BaseFigure, history: History, record: int, place: int, expert: int | None = None
) -> None:
    """Draw one record of one layer in the picture; call this inside `batch_update`."""
    load, step = history.load[record, place], history.steps[record]
    n = len(load)
    figure.data[LOAD].update(
        y=load.numpy(),
        marker_color=[ACCENT if at == expert else OKABE_ITO[0] for at in range(n)],
        marker_pattern_shape=["/" if at == expert else "" for at in range(n)],
    )
    for line, now, values in ((VIOLATION, NOW, history.violation),
                              (ENTROPY, NOW_ENTROPY, history.entropy)):  # fmt: skip
        figure.data[line].y = values[:, place].numpy()
        figure.data[now].update(x=[step], y=[float(values[record, place])])
    figure.layout.annotations[0].text = f"Load at step {step}"
    set_summary(figure, replay_summary(history, record, place))


def replay_summary(history: History, record: int, place: int) -> str:
    """Say in one sentence what the picture shows."""
    load = history.load[record, place]
    return (
        f"At step {history.steps[record]} of {history.steps[-1]} the busiest expert is "
        f"{int(load.argmax())} with {float(load.max()):.1%} of the choices; an even share is "
        f"{1 / len(load):.1%}. MaxVio {float(history.violation[record, place]):.2f}, entropy "
        f"{float(history.entropy[record, place]):.3f} of at most 1."
    )


def replay_rows(history: History, place: int, count: int = 20) -> list[list[str]]:
    """Return step, MaxVio, entropy and the busiest expert's load for about `count` records."""
    every = -(-len(history.steps) // count)
    kept = [*range(0, len(history.steps), every)]
    kept += [] if kept[-1] == len(history.steps) - 1 else [len(history.steps) - 1]
    return [
        [str(history.steps[n]), f"{float(history.violation[n, place]):.2f}",
         f"{float(history.entropy[n, place]):.3f}", f"{float(history.load[n, place].max()):.1%}"]
        for n in kept
    ]  # fmt: skip
