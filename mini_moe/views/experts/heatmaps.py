"""Matrices with colours centred on an expected value: white is chance."""

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
import torch
from jaxtyping import Float
from torch import Tensor

from mini_moe.routing.measures import Effects, LabelCounts
from mini_moe.views.style import new_figure


def around(middle: float) -> list[list[Any]]:
    """Return a colour scale from 0 to 1 that is white at `middle`: blue below, vermilion above.

    These two can be told apart with every kind of colour vision.
    """
    stops = [[0.0, "#0072B2"], [middle / 2, "#7FB8D8"], [middle, "#FFFFFF"]]
    return [*stops, [(1 + middle) / 2, "#F0AE7F"], [1.0, "#D55E00"]]


def specialisation_heatmap(
    counts: LabelCounts, names: Sequence[str], layer: int = 0, title: str = ""
) -> go.Figure:
    """Draw the percentage of each label's tokens (row) that choose an expert (column).

    White is chance, k / N. Experts are sorted by the label that uses them most. `layer` indexes
    the layers of `counts`, from 0.
    """
    shares = 100 * counts.shares[layer].float()
    _check_names(names, len(shares), "label")
    order = _by_strongest(shares)
    chance = 100 * counts.chance
    row, column = divmod(int(shares.nan_to_num().argmax()), shares.shape[1])
    summary = (
        f"{float(shares[row, column]):.0f} % of the {names[row]} tokens choose expert {column}, "
        f"where chance is {chance:.0f} %; one standard error at chance is at most "
        f"{100 * float(counts.noise.max()):.1f} points."
    )
    figure = _heatmap(
        shares[:, order], chance, 100.0, "{:.0f}", summary, title,
        hover="%{y}, expert %{x}: %{z:.1f} %", bar={"title": {"text": "%"}},
    )  # fmt: skip
    _label(figure, list(names), [str(e) for e in order], f"expert (chance {chance:.0f} %)")
    return figure


def coactivation_heatmap(
    together: Float[Tensor, "experts experts"], chance: Float[Tensor, "experts experts"],
    title: str = "",
) -> go.Figure:  # fmt: skip
    """Draw how many times more often than by chance the tokens of expert i (row) also choose j.

    `together` is `coactivation`, `chance` is `coactivation_chance`; 2.0 means twice as often as
    by chance, white is 1, the diagonal is left empty.
    """
    lift = (together / chance).float()
    lift = lift.masked_fill(torch.eye(len(lift), dtype=torch.bool), torch.nan)
    row, column = divmod(int(lift.nan_to_num(-1.0).argmax()), len(lift))
    seldom = divmod(int(lift.nan_to_num(torch.inf).argmin()), len(lift))
    summary = (
        f"Tokens of expert {row} choose expert {column} {float(lift[row, column]):.1f} times as "
        f"often as by chance ({100 * float(together[row, column]):.0f} % of them); experts "
        f"{seldom[0]} and {seldom[1]} avoid each other most, {float(lift[seldom]):.1f} times."
    )
    figure = _heatmap(
        lift, 1.0, 2.5, "{:.1f}", summary, title,
        hover="tokens of %{y} choose %{x} %{z:.2f} times as often as by chance",
        bar={"title": {"text": "× chance"}},
    )  # fmt: skip
    numbers = [str(e) for e in range(len(lift))]
    _label(figure, numbers, numbers, "… also choose this expert")
    figure.update_yaxes(title_text="tokens of this expert …")
    return figure


def knock_out_heatmap(
    effects: Effects, names: Sequence[str], experts: Sequence[str] | None = None, title: str = ""
) -> go.Figure:
    """Draw how switching off an expert (column) changes each label's loss (row), in 1/1000 nats.

    Changes within two standard errors are shown as a dot instead of a number.
    """
    change = 1000 * effects.loss_change.T.float()
    noise = 1000 * effects.error.T.float()
    _check_names(names, len(change), "label")
    columns = list(experts) if experts is not None else [str(e) for e in range(change.shape[1])]
    _check_names(columns, change.shape[1], "expert")
    row, column = divmod(int(change.argmax()), change.shape[1])
    clear = change.abs() > 2 * noise
    summary = (
        f"Without expert {columns[column]} the loss on {names[row]} rises most, by "
        f"{float(change[row, column]):.0f} ± {float(noise[row, column]):.0f} thousandths of a nat; "
        f"{int(clear.sum())} of {clear.numel()} changes exceed two standard errors."
    )
    figure = _heatmap(
        change, 0.0, max(float(change.abs().max()), 1e-9), "{:.0f}", summary, title, hidden=~clear,
        hover="without expert %{x}, %{y}: %{z:.1f} thousandths of a nat",
        bar={"title": {"text": "nats / 1000"}},
    )  # fmt: skip
    _label(figure, list(names), columns, "expert switched off")
    return figure


def _heatmap(
    values: Float[Tensor, "rows columns"], middle: float, top: float, digits: str, summary: str,
    title: str, *, hover: str, bar: dict[str, Any], hidden: Tensor | None = None,
) -> go.Figure:  # fmt: skip
    """Draw numbers on colours that are white at `middle`: from 0 to `top`, or ±`top` around 0."""
    n_rows, n_columns = values.shape
    cell = max(26, min(44, 610 // n_columns))  # JupyterLab shows about 840 pixels
    figure = new_figure(
        summary, width=215 + cell * n_columns, height=150 + 34 * n_rows, title_text=title,
        plot_bgcolor="#DDDDDD", margin={"l": 60, "r": 30, "t": 60 if title else 20, "b": 60},
    )  # fmt: skip
    low = 0.0 if middle else -top
    known = values.isfinite()
    cells = [[float(v) if ok else None for v, ok in zip(r, k, strict=True)]
             for r, k in zip(values, known, strict=True)]  # fmt: skip
    figure.add_trace(go.Heatmap(
        z=cells, x=list(range(n_columns)), y=list(range(n_rows)), zmin=low, zmax=top,
        colorscale=around((middle - low) / (top - low)), xgap=1, ygap=1, hoverongaps=False,
        text=_texts(values, digits, hidden), texttemplate="%{text}",
        colorbar={"thickness": 12, **bar}, hovertemplate=hover + "<extra></extra>",
        textfont={"size": 12 if cell >= 32 else 10},
    ))  # fmt: skip
    figure.update_xaxes(showgrid=False)
    figure.update_yaxes(showgrid=False, autorange="reversed")
    return figure


def _texts(values: Tensor, digits: str, hidden: Tensor | None) -> list[list[str]]:
    def text(row: int, column: int) -> str:
        value = float(values[row, column])
        if value != value:
            return ""
        return "·" if hidden is not None and bool(hidden[row, column]) else digits.format(value)

    return [[text(r, c) for c in range(values.shape[1])] for r in range(values.shape[0])]


def _label(figure: go.Figure, rows: list[str], columns: list[str], x_title: str) -> None:
    """Replace numbers by names, on the axes and in the figure's table."""
    figure.update_traces(x=columns, y=rows)
    figure.update_xaxes(type="category", title_text=x_title, tickangle=0)
    figure.update_yaxes(type="category")


def _by_strongest(shares: Float[Tensor, "labels experts"]) -> list[int]:
    """Return the experts grouped by the label that uses each most, most used first."""
    filled = shares.nan_to_num()
    best = filled.argmax(dim=0).tolist()
    return sorted(range(len(best)), key=lambda e: (best[e], -float(filled[best[e], e])))


def _check_names(names: Sequence[str], count: int, what: str) -> None:
    if len(names) != count:
        raise ValueError(f"names: one per {what} ({count}) expected, got {len(names)}")
