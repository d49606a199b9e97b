"""Values against chance: overlaps, saturation over training, use against effect."""

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
from jaxtyping import Float
from torch import Tensor

from mini_moe.views.style import ACCENT, DASHES, OKABE_ITO, QUIET, SYMBOLS, new_figure

LEGEND = {"orientation": "h", "x": 1, "xanchor": "right", "yanchor": "bottom"}


def overlap_dots(
    values: Mapping[str, Sequence[Any] | Tensor], chance: float | Tensor, *,
    layers: Sequence[int] | None = None, errors: Mapping[str, Sequence[Any] | Tensor] | None = None,
    title: str = "", x_title: str = "share of the experts in common", chance_name: str = "chance",
) -> go.Figure:  # fmt: skip
    """Draw a row per name, a dot per layer, and chance (or `chance_name`) as a dashed line.

    `errors` are standard errors of the same shape; error bars show twice the standard error.
    """
    rows = {name: [float(v) for v in line] for name, line in values.items()}
    counts = {len(line) for line in rows.values()}
    if len(counts) != 1 or 0 in counts:
        raise ValueError(f"values: equally many for every name expected, got {sorted(counts)}")
    n_layers = counts.pop()
    numbers = list(layers) if layers is not None else list(range(n_layers))
    means = {name: sum(line) / n_layers for name, line in rows.items()}
    best, least = max(means, key=means.__getitem__), min(means, key=means.__getitem__)
    chance = float(chance)
    figure = new_figure(
        f"Mean over the layers: {best} {means[best]:.0%}, {least} {means[least]:.0%}; "
        f"{chance_name}: {chance:.0%}.",
        width=820, height=190 + 40 * len(rows), title_text=title, scattermode="group",
        legend={**LEGEND, "y": 1 + 20 / (40 * len(rows) + 30)},  # above the line's label
        margin={"l": 60, "r": 40, "t": 100 if title else 50, "b": 60},
    )  # fmt: skip
    figure.update_layout(title={"yref": "container", "y": 0.95, "yanchor": "top"})
    for n in range(n_layers):
        bars = None
        if errors is not None:
            bars = {"type": "data", "array": [2 * float(errors[name][n]) for name in rows]}
        figure.add_scatter(
            x=[line[n] for line in rows.values()], y=list(rows), mode="markers",
            name=f"layer {numbers[n]}", error_x=bars, orientation="h",
            marker={"size": 10, "symbol": SYMBOLS[n % 8], "color": OKABE_ITO[n % 7]},
        )  # fmt: skip
    _chance_line(figure, chance, chance_name)
    figure.update_xaxes(title_text=x_title, tickformat=".0%", range=[0, 1.02])
    figure.update_yaxes(autorange="reversed", type="category")
    return figure


def _chance_line(figure: go.Figure, chance: float, name: str) -> None:
    figure.add_vline(chance, line_dash="dash", line_color="#000000")
    figure.add_annotation(
        x=chance, y=1, yref="paper", yanchor="bottom", xanchor="center",
        text=f"{name} {chance:.0%}", showarrow=False, font={"size": 12},
    )  # fmt: skip


def saturation_curves(
    steps: Sequence[int], values: Float[Tensor, "checkpoints layers"], chance: float | Tensor, *,
    layers: Sequence[int] | None = None, title: str = "",
) -> go.Figure:  # fmt: skip
    """Draw the share of final expert choices that each checkpoint already makes, a curve per layer.

    `chance` is k / N. The last checkpoint is at 100 % by definition.
    """
    if len(steps) != len(values) or not len(steps):
        raise ValueError(f"steps: one per checkpoint ({len(values)}) expected, got {len(steps)}")
    numbers = list(layers) if layers is not None else list(range(values.shape[1]))
    chance, last = float(chance), steps[-1]
    early = steps[1 if len(steps) > 2 else 0]
    means = values.float().mean(dim=1)
    halfway = next(s for s, v in zip(steps, means, strict=True) if v >= (1 + chance) / 2)
    figure = new_figure(
        f"After {early} of {last} steps {float(means[steps.index(early)]):.0%} of the final "
        f"choices are made (chance {chance:.0%}); by step {halfway} the share is at least halfway "
        "from chance to 100 %.",
        title_text=title, legend={"x": 0.98, "y": 0.05, "xanchor": "right", "yanchor": "bottom"},
        margin={"l": 70, "r": 30, "t": 60 if title else 20, "b": 60},
    )  # fmt: skip
    for n, number in enumerate(numbers):
        figure.add_scatter(
            x=list(steps), y=values[:, n].tolist(), mode="lines+markers", name=f"layer {number}",
            line={"color": OKABE_ITO[n % 7], "dash": DASHES[n % 8], "width": 2.5},
            marker={"symbol": SYMBOLS[n % 8], "size": 8},
        )  # fmt: skip
    figure.add_hline(chance, line_dash="dash", line_color="#000000")
    figure.add_annotation(
        x=0.01, xref="paper", y=chance, yanchor="top", xanchor="left", showarrow=False,
        text=f"chance {chance:.0%}", font={"size": 12},
    )  # fmt: skip
    figure.update_xaxes(title_text="training step")
    figure.update_yaxes(title_text="saturation", tickformat=".0%", range=[0, 1.05])
    return figure


def cause_scatter(
    shares: Float[Tensor, "experts"], change: Float[Tensor, "experts"],
    error: Float[Tensor, "experts"], *, label: str = "", chance: float | None = None,
    title: str = "",
) -> go.Figure:  # fmt: skip
    """Draw each expert by the share of a label's tokens that choose it and by its knock-out cost.

    Error bars are two standard errors. If use predicted cost, all experts would be on one line.
    """
    used, cost = shares.tolist(), change.tolist()
    most, worst = int(shares.argmax()), int(change.argmax())
    label = label or "the text"
    dearest = f"that of expert {worst}, used by {used[worst]:.0%}" if worst != most else "its own"
    figure = new_figure(
        f"Expert {most} is used most by {label} ({used[most]:.0%} of its tokens); its absence "
        f"costs {cost[most]:+.3f} nats per token. The highest cost, {cost[worst]:+.3f}, is "
        f"{dearest}.",
        title_text=title, showlegend=False,
        margin={"l": 70, "r": 30, "t": 60 if title else 20, "b": 60},
    )  # fmt: skip
    figure.add_hline(0, line_color=QUIET, line_width=1)
    if chance is not None:
        figure.add_vline(chance, line_dash="dash", line_color="#000000")
        figure.add_annotation(
            x=chance, y=1, yref="paper", yanchor="top", xanchor="left", xshift=4,
            text=f"chance {chance:.0%}", showarrow=False, font={"size": 12},
        )  # fmt: skip
    colours = [ACCENT if e in (most, worst) else OKABE_ITO[0] for e in range(len(used))]
    notable = (shares > min(0.2, 0.3 * used[most])) | (change.abs() > 2 * error)
    names = [str(e) if bool(notable[e]) else "" for e in range(len(used))]  # others would overlap
    figure.add_scatter(
        x=used, y=cost, mode="markers+text", name="experts", text=names,
        textposition="top right", marker={"size": 9, "color": colours}, cliponaxis=False,
        error_y={"type": "data", "array": [2 * e for e in error.tolist()], "color": "#9A9A9A"},
    )  # fmt: skip
    figure.update_xaxes(title_text=f"share of {label} tokens that choose it", tickformat=".0%")
    figure.update_xaxes(range=[-0.02, max(used) * 1.1])
    figure.update_yaxes(title_text="change in loss without it (nats per token)")
    return figure
