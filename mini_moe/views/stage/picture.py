"""The stage's picture: token × expert with chosen cells outlined, and every expert's load."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.basedatatypes import BaseFigure
from plotly.subplots import make_subplots

from mini_moe.routing import expert_load, max_violation, noise_floor
from mini_moe.views.routing import gate_labels, outlines, short_label
from mini_moe.views.stage.state import Moment
from mini_moe.views.style import ACCENT, OKABE_ITO, QUIET, TEMPLATE, set_summary

# The figure's traces, in order.
SCORES, CHOSEN, LOST, GATES, FRAME, LOAD, BEFORE, EVEN, CHANCE, CAPACITY = range(10)


@dataclass(frozen=True)
class Look:
    """Sizes in pixels, for a desk or for reading from the back of a room."""

    cell: int = 24
    row: int = 22
    window: int = 22  # tokens drawn at once
    load_width: int = 190
    left: int = 62
    font: int = 13
    gate: int = 10
    stepper: int = 13

    @property
    def width(self) -> int:
        return self.left + self.cell * self.window + self.load_width + 40


DESK = Look()
ROOM = Look(cell=46, row=31, window=14, load_width=270, left=96, font=22, gate=19, stepper=21)


def window_start(first: int, token: int, n_tokens: int, window: int) -> int:
    """Return the first token to draw; the window moves only to keep the selected token in view."""
    first = min(max(first, token - window + 1), token)
    return max(0, min(first, n_tokens - window))


def stage_picture(n_experts: int, look: Look = DESK) -> go.Figure:
    """Create the empty picture; `draw_moment` fills it."""
    figure = make_subplots(1, 2, shared_yaxes=True, horizontal_spacing=0.02,
                           subplot_titles=("scores", "load"))  # fmt: skip
    figure.add_heatmap(name="score", colorscale="Cividis", xgap=1, ygap=1, showscale=False,
                       hovertemplate="token %{x}, expert %{y}: score %{z:.3f}<extra></extra>",
                       row=1, col=1)  # fmt: skip
    lines: dict[str, Any] = {"hoverinfo": "skip", "row": 1, "col": 1}
    figure.add_scatter(name="chosen", mode="lines", line_color=ACCENT, line_width=2, **lines)
    figure.add_scatter(name="chosen by the untouched model", mode="markers", **lines)
    figure.add_scatter(name="gate", mode="text", **lines)
    figure.add_scatter(
        name="selected", mode="lines", line_color=OKABE_ITO[3], line_width=3, **lines
    )
    figure.add_bar(name="load", orientation="h", row=1, col=2,
                   hovertemplate="expert %{y}: %{x:.1%}<extra></extra>")  # fmt: skip
    figure.data[LOAD].marker.pattern.update(fillmode="overlay", fgcolor="#FFFFFF", solidity=0.35)
    figure.add_scatter(name="load untouched", mode="markers", hoverinfo="skip", row=1, col=2)
    for name, dash, colour in (("even share", "dash", "#000000"), ("by chance", "dot", QUIET),
                               ("capacity", "dashdot", OKABE_ITO[3])):  # fmt: skip
        figure.add_scatter(name=name, mode="lines", line_dash=dash, line_color=colour,
                           hoverinfo="skip", row=1, col=2)  # fmt: skip
    figure.data[LOST].marker.update(
        symbol="x", color="#FFFFFF", line={"color": "#000000", "width": 1}
    )
    figure.data[BEFORE].marker.update(symbol="diamond-open", color="#000000", size=8)
    figure.update_layout(template=TEMPLATE, showlegend=False, bargap=0.25, meta={"summary": ""})
    figure.update_yaxes(range=[n_experts - 0.5, -0.5], showgrid=False)
    figure.update_yaxes(showticklabels=False, ticks="", row=1, col=2)
    figure.update_yaxes(title_text="expert", row=1, col=1)
    figure.update_xaxes(showgrid=False, tickangle=-55, row=1, col=1)
    figure.update_xaxes(tickformat=".0%", row=1, col=2)
    resize_picture(figure, n_experts, look)
    return figure


def resize_picture(figure: BaseFigure, n_experts: int, look: Look) -> None:
    """Apply a look's sizes to every part."""
    figure.data[GATES].textfont.size = look.gate
    figure.data[LOST].marker.size = look.gate
    top, bottom = 2 * look.font + 12, 6 * look.font + 12
    inner = look.width - look.left - 20
    split = look.cell * look.window / inner
    figure.update_layout(
        width=look.width, height=top + bottom + look.row * n_experts, font_size=look.font,
        margin={"l": look.left, "r": 20, "t": top, "b": bottom},
    )  # fmt: skip
    figure.layout.xaxis.domain, figure.layout.xaxis2.domain = (0, split), (split + 0.025, 1)
    figure.update_annotations(font_size=look.font + 2)
    for title, middle in zip(figure.layout.annotations, (split / 2, (split + 1.025) / 2),
                             strict=True):  # fmt: skip
        title.x = middle


def draw_moment(
    figure: BaseFigure, moment: Moment, layer: int, token: int, expert: int, first: int,
    look: Look, capacity_factor: float | None = None,
) -> None:  # fmt: skip
    """Draw a moment in the picture; call this inside `batch_update`."""
    trace, place = moment.after, moment.after.layers.index(layer)
    last = min(first + look.window, len(trace.pieces))
    columns = list(range(first, last))
    scores = trace.scores[place, first:last].float().cpu().numpy()
    ids, gates = (
        trace.expert_ids[place, first:last].tolist(),
        trace.gates[place, first:last].tolist(),
    )
    top = 1.0 if trace.score_function == "sigmoid" else float(scores.max())
    figure.data[SCORES].update(x=np.array(columns), y=np.arange(trace.n_experts), z=scores.T,
                               zmin=0, zmax=top)  # fmt: skip
    figure.data[CHOSEN].update(**{key: _numbers(v) for key, v in outlines(columns, ids).items()})
    figure.data[LOST].update(**_lost(moment, place, columns, ids))
    labels = gate_labels(columns, ids, gates, scores)
    labels["textfont"] = {**labels["textfont"], "size": look.gate}
    figure.data[GATES].update(**labels)
    figure.data[FRAME].update(**_frame(token, expert, columns, trace.n_experts))
    figure.layout.xaxis.update(
        tickvals=columns, range=[first - 0.5, first + look.window - 0.5],
    )  # fmt: skip
    named = [short_label(piece) for piece in trace.pieces[first:last]]
    named[token - first] = f"<b>● {named[token - first]}</b>"
    figure.layout.xaxis.ticktext = named
    figure.layout.yaxis.update(**_expert_ticks(expert, trace.n_experts))
    part = "" if len(columns) == len(trace.pieces) else f", tokens {first} to {last - 1}"
    figure.layout.annotations[0].text = f"Layer {layer}: score of each expert{part}"
    _draw_load(figure, moment, place, expert, capacity_factor, look)
    set_summary(figure, picture_summary(moment, layer, expert))


def _draw_load(
    figure: BaseFigure, moment: Moment, place: int, expert: int, factor: float | None, look: Look
) -> None:
    trace, n = moment.after, moment.after.n_experts
    load, before = (_load(t, place) for t in (moment.after, moment.before))
    even, floor = 1 / n, noise_floor(n, float(trace.expert_ids[place].numel() / n))
    silent = {at for layer, at in moment.changes.off if layer == trace.layers[place]}
    shapes = ["x" if at in silent else "/" if at == expert else "" for at in range(n)]
    colours = [ACCENT if at == expert else OKABE_ITO[0] for at in range(n)]
    bars = figure.data[LOAD]
    bars.update(x=load, y=np.arange(n), marker_color=colours, marker_pattern_shape=shapes)
    changed = moment.changes != type(moment.changes)()
    figure.data[BEFORE].update(
        x=before if changed else [], y=np.arange(n) if changed else [], marker_color="#000000"
    )
    by_chance = even * (1 + floor)
    for number, at in ((EVEN, even), (CHANCE, by_chance), (CAPACITY, factor and factor * even)):
        figure.data[number].update(x=[at, at] if at else [], y=[-0.5, n - 0.5] if at else [])
    words = [f"– – even {even:.1%}", f"· · · by chance {by_chance:.1%}"]
    words += [f"– · – capacity {factor * even:.1%}"] if factor else []
    words += ["◇ untouched model"] if changed else []
    figure.layout.annotations[1].text = "Load of this text"
    figure.layout.xaxis2.title.update(text="<br>".join(words), font={"size": look.font - 1})
    highest = max(float(load.max()), float(before.max()), by_chance, (factor or 0) * even)
    figure.layout.xaxis2.range = [-0.03 * highest, 1.08 * highest]


def _load(trace: Any, place: int) -> np.ndarray:
    return expert_load(trace.expert_ids[place], trace.n_experts).cpu().numpy()


def _lost(moment: Moment, place: int, columns: list[int], ids: list[list[int]]) -> dict[str, Any]:
    """Mark the cells that the untouched model chose and the changed one does not."""
    were = moment.before.expert_ids[place, columns[0] : columns[-1] + 1].tolist()
    cells = [
        (column, expert)
        for column, old, new in zip(columns, were, ids, strict=True)
        for expert in sorted(set(old) - set(new))
    ]
    x, y = [column for column, _ in cells], [expert for _, expert in cells]
    return {"x": x, "y": y, "marker_color": "#FFFFFF"}  # a browser forgets an empty trace's colour


def _frame(token: int, expert: int, columns: list[int], n_experts: int) -> dict[str, Any]:
    """Outline the selected token's column and the selected expert's row."""
    left, right = columns[0] - 0.5, columns[-1] + 0.5
    x = [token - 0.5, token + 0.5, token + 0.5, token - 0.5, token - 0.5, None]
    y = [-0.5, -0.5, n_experts - 0.5, n_experts - 0.5, -0.5, None]
    x += [left, right, right, left, left]
    y += [expert - 0.5, expert - 0.5, expert + 0.5, expert + 0.5, expert - 0.5]
    return {"x": _numbers(x), "y": _numbers(y)}


def _expert_ticks(expert: int, n_experts: int) -> dict[str, Any]:
    """Return row numbers as ticks, with a symbol at the selected one."""
    every = 1 if n_experts <= 32 else 16
    at = sorted({*range(0, n_experts, every), expert})
    return {"tickvals": at, "ticktext": [f"<b>● {n}</b>" if n == expert else str(n) for n in at]}


def _numbers(values: list[float | None]) -> np.ndarray:
    """Turn gaps into NaN: the browser gets arrays as bytes, lists as text."""
    return np.array([np.nan if value is None else value for value in values], dtype=np.float32)


def picture_summary(moment: Moment, layer: int, expert: int) -> str:
    """Say in one sentence what the picture shows."""
    place = moment.after.layers.index(layer)
    load = expert_load(moment.after.expert_ids[place], moment.after.n_experts)
    ids = moment.after.expert_ids[place]
    return (
        f"In layer {layer} each of {len(ids)} tokens chooses {ids.shape[-1]} of "
        f"{moment.after.n_experts} experts; expert {int(load.argmax())} is the busiest, with "
        f"{float(load.max()):.1%} of the choices (MaxVio {float(max_violation(load)):.2f}); "
        f"expert {expert} gets {float(load[expert]):.1%}."
    )
