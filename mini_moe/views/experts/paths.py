"""Paths from one layer's experts to the next layer's that are taken more often than by chance."""

from collections.abc import Sequence

import plotly.graph_objects as go
from jaxtyping import Int
from torch import Tensor

from mini_moe.routing.measures import path_chance, path_shares
from mini_moe.views.style import OKABE_ITO, QUIET, new_figure, set_summary


def path_lines(
    paths: Int[Tensor, "steps experts experts"], top_k: int, *,
    layers: Sequence[int] | None = None, title: str = "", at_least: float = 1.5,
) -> go.Figure:  # fmt: skip
    """Draw a column of experts per layer; lines connect experts that follow each other.

    Each expert's strongest successor is drawn if its tokens choose it at least `at_least` times as
    often as if layers were independent; wider lines carry a larger share of the expert's tokens.
    """
    shares = path_shares(paths, top_k)
    chance = path_chance(paths, top_k)
    n_steps, n_experts = shares.shape[:2]
    numbers = list(layers) if layers is not None else list(range(n_steps + 1))
    figure = new_figure(
        "", width=170 + 250 * n_steps, height=110 + 26 * n_experts, title_text=title,
        showlegend=False, margin={"l": 50, "r": 50, "t": 60 if title else 20, "b": 50},
    )  # fmt: skip
    drawn, best = 0, (0.0, "")
    for step in range(n_steps):
        for i in range(n_experts):
            j = int(shares[step, i].nan_to_num().argmax())
            share, expected = float(shares[step, i, j]), float(chance[step, j])
            if not share >= at_least * expected:
                continue
            drawn += 1
            way = f"{numbers[step]}.{i} → {numbers[step + 1]}.{j}"
            best = max(best, (share, f"{way}, {share:.0%} where chance is {expected:.0%}"))
            _line(figure, (step, i), (step + 1, j), share, f"{way}: {share:.0%}")
    _nodes(figure, n_steps + 1, n_experts)
    strongest = f"; the strongest (layer.expert): {best[1]}" if drawn else ""
    set_summary(
        figure,
        f"{drawn} of {n_steps * n_experts} experts have a favourite successor that follows at "
        f"least {at_least:g} times as often as if layers were independent{strongest}.",
    )
    figure.update_xaxes(
        tickvals=list(range(n_steps + 1)), ticktext=[f"layer {n}" for n in numbers],
        showgrid=False, range=[-0.25, n_steps + 0.25],
    )  # fmt: skip
    figure.update_yaxes(
        visible=False, range=[n_experts - 0.3, -0.7], showgrid=False, zeroline=False
    )
    return figure


def _line(
    figure: go.Figure, start: tuple[int, int], end: tuple[int, int], share: float, name: str
) -> None:
    colour = OKABE_ITO[start[1] % 6]
    figure.add_scatter(
        x=[start[0], end[0]], y=[start[1], end[1]], mode="lines", name=name, opacity=0.75,
        line={"width": 1 + 8 * share, "color": colour}, hoverinfo="name",
    )  # fmt: skip


def _nodes(figure: go.Figure, n_layers: int, n_experts: int) -> None:
    places = [(layer, expert) for layer in range(n_layers) for expert in range(n_experts)]
    figure.add_scatter(
        x=[x for x, _ in places], y=[y for _, y in places], mode="markers+text", name="experts",
        text=[str(y) for _, y in places], textfont={"size": 11}, hoverinfo="skip",
        marker={"size": 22, "color": "#FFFFFF", "line": {"color": QUIET, "width": 1.5}},
    )  # fmt: skip
