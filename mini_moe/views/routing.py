"""Which expert each token chose, and how evenly the experts are used."""

from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.basedatatypes import BaseFigure
from torch import Tensor

from mini_moe.routing import RoutingTrace, dead_experts, max_violation
from mini_moe.routing import noise_floor as chance
from mini_moe.views.sentence import layer_place
from mini_moe.views.style import ACCENT, OKABE_ITO, QUIET, new_figure, set_summary

MAX_TOKENS = 28  # columns that fit a notebook and stay readable; longer texts show their end


def routing_heatmap(
    trace: RoutingTrace, layer: int | None = None, max_tokens: int = MAX_TOKENS
) -> go.Figure:
    """Draw the scores, token × expert; chosen experts are outlined and show their gate.

    For a text with more than `max_tokens` tokens, only the last ones are drawn.
    """
    cell = max(8, min(25, 480 // trace.n_experts))
    figure = new_figure(
        "", width=130 + 25 * max_tokens, height=120 + cell * trace.n_experts,
        margin={"l": 60, "r": 70, "t": 50, "b": 70},
    )  # fmt: skip
    figure.add_trace(go.Heatmap(
        name="score", colorscale="Cividis", zmin=0, zmax=1, xgap=1, ygap=1,
        colorbar={"title": {"text": "score"}, "thickness": 12},
        hovertemplate="%{customdata}<br>expert %{y}: score %{z:.3f}<extra></extra>",
    ))  # fmt: skip
    figure.add_trace(go.Scatter(
        name="chosen", mode="lines", line={"color": ACCENT, "width": 2}, hoverinfo="skip",
    ))  # fmt: skip
    figure.add_trace(go.Scatter(name="gate", mode="text", hoverinfo="skip"))
    figure.update_layout(showlegend=False)
    figure.update_yaxes(title_text="expert", dtick=1 if trace.n_experts <= 32 else 16)
    figure.update_yaxes(range=[trace.n_experts - 0.5, -0.5], showgrid=False)
    figure.update_xaxes(showgrid=False, tickangle=-60)
    draw_routing(figure, trace, layer, max_tokens)
    return figure


def draw_routing(
    figure: BaseFigure, trace: RoutingTrace, layer: int | None, max_tokens: int = MAX_TOKENS
) -> None:
    """Update a figure made by `routing_heatmap` with another trace or layer."""
    place = layer_place(trace, layer)
    first = max(0, len(trace.pieces) - max_tokens)
    columns = list(range(first, len(trace.pieces)))
    scores = trace.scores[place, first:].float().cpu().numpy()
    ids, gates = trace.expert_ids[place, first:].tolist(), trace.gates[place, first:].tolist()
    pieces = trace.pieces[first:]
    named = [
        f"token {n} “{short_label(piece, 60)}”" for n, piece in zip(columns, pieces, strict=True)
    ]
    heat, outline, text = figure.data
    heat.update(
        x=columns, y=list(range(trace.n_experts)), z=scores.T,
        customdata=np.tile(np.array(named, dtype=object), (trace.n_experts, 1)).tolist(),
        zmax=1 if trace.score_function == "sigmoid" else float(scores.max()),
    )  # fmt: skip
    outline.update(**outlines(columns, ids))
    text.update(**gate_labels(columns, ids, gates, scores))
    figure.update_xaxes(
        tickvals=columns, ticktext=[short_label(p) for p in pieces],
        range=[first - 0.5, first + max(len(columns), 8) - 0.5],
    )  # fmt: skip
    left_out = f", the last {len(columns)} of {len(trace.pieces)} tokens" if first else ""
    figure.update_layout(title_text=f"Layer {trace.layers[place]}: score of each expert{left_out}")
    set_summary(figure, heatmap_summary(trace, place))


def heatmap_summary(trace: RoutingTrace, place: int) -> str:
    """Say in one sentence what the heatmap shows."""
    used = int(trace.expert_ids[place].unique().numel())
    return (
        f"In layer {trace.layers[place]} each of {len(trace.pieces)} tokens chooses "
        f"{trace.expert_ids.shape[-1]} of {trace.n_experts} experts; {used} of them are chosen by "
        f"at least one token, and the largest gate is {float(trace.gates[place].max()):.2f}."
    )


def outlines(columns: list[int], ids: list[list[int]]) -> dict[str, list]:
    """Return one line that outlines every chosen cell."""
    x: list[float | None] = []
    y: list[float | None] = []
    for column, experts in zip(columns, ids, strict=True):
        for expert in experts:
            x += [column - 0.47, column + 0.47, column + 0.47, column - 0.47, column - 0.47, None]
            y += [expert - 0.45, expert - 0.45, expert + 0.45, expert + 0.45, expert - 0.45, None]
    return {"x": x, "y": y}


def gate_labels(
    columns: list[int], ids: list[list[int]], gates: list[list[float]], scores: np.ndarray
) -> dict[str, Any]:
    """Return the gate as text for every chosen cell: white on dark scores, black on light ones."""
    cells = [
        (column, expert, gate, scores[row, expert])
        for row, column in enumerate(columns)
        for expert, gate in zip(ids[row], gates[row], strict=True)
    ]
    top = float(scores.max()) if scores.max() > 1 or scores.max() < 0.2 else 1.0
    return {
        "x": [cell[0] for cell in cells],
        "y": [cell[1] for cell in cells],
        "text": [f"{cell[2]:.1f}".removeprefix("0") for cell in cells],
        "textfont": {
            "size": 10,
            "color": ["#FFFFFF" if score < 0.55 * top else "#000000" for *_, score in cells],
        },
    }


def short_label(piece: str, longest: int = 9) -> str:
    """Return a token as a tick label: shortened, and escaped for plotly."""
    short = piece if len(piece) <= longest else piece[: longest - 1] + "…"
    return short.replace("&", "&amp;").replace("<", "&lt;")


def load_bars(
    load: Float[Tensor, "experts"], n_choices: int | None = None, title: str = "Expert load"
) -> go.Figure:
    """Draw each expert's share of the choices, with the even share as a dashed line.

    With `n_choices` (tokens · top_k), a dotted line shows the load that the busiest expert would
    get by chance alone.
    """
    shares = load.float().cpu()
    n_experts, even = len(shares), 1 / len(shares)
    violation, busiest = float(max_violation(shares)), int(shares.argmax())
    figure = new_figure("", height=360, title_text=title, bargap=0.15)
    colours = [ACCENT if e == busiest else OKABE_ITO[0] for e in range(n_experts)]
    figure.add_bar(x=list(range(n_experts)), y=shares.tolist(), name="load", marker_color=colours)
    figure.add_hline(even, line_dash="dash", line_color="#000000")
    _line_label(figure, even, f"even share {even:.1%}")
    floor = ""
    if n_choices:
        by_chance = chance(n_experts, float(n_choices / n_experts))
        figure.add_hline(even * (1 + by_chance), line_dash="dot", line_color=QUIET)
        _line_label(figure, even * (1 + by_chance), "busiest by chance")
        floor = f"; chance alone would give about {by_chance:.2f}"
    figure.update_layout(showlegend=False, margin_r=150)
    figure.update_xaxes(title_text="expert", dtick=1 if n_experts <= 32 else 16)
    figure.update_yaxes(title_text="share of choices", tickformat=".0%", rangemode="tozero")
    set_summary(
        figure,
        f"Expert {busiest} is the busiest, with {float(shares[busiest]):.1%} of the choices; "
        f"an even share is {even:.1%}. MaxVio {violation:.2f}{floor}; "
        f"{_idle(int(dead_experts(shares)))}.",
    )
    return figure


def _idle(count: int) -> str:
    if not count:
        return "every expert is chosen"
    return f"{count} expert{'s are' if count > 1 else ' is'} never chosen"


def _line_label(figure: go.Figure, height: float, text: str) -> None:
    figure.add_annotation(
        x=1.01, xref="paper", y=height, text=text, showarrow=False, xanchor="left",
        font={"size": 12},
    )  # fmt: skip
