"""Loss by position in a long text: where a model stops understanding."""

from collections.abc import Mapping

import plotly.graph_objects as go
import torch
from jaxtyping import Float
from torch import Tensor

from mini_moe.views.style import DASHES, OKABE_ITO, QUIET, SYMBOLS, new_figure

PER_DOUBLING = 3  # points per doubling of the position
FIRST = 8  # position at which the curves start


def position_bins(losses: Float[Tensor, "positions"]) -> tuple[list[float], list[float]]:
    """Return midpoints and mean losses of bins that grow with position, three per doubling."""
    edges, edge = [], float(FIRST)
    while round(edge) < len(losses):
        edges.append(round(edge))
        edge *= 2 ** (1 / PER_DOUBLING)
    edges.append(len(losses))
    pairs = [(a, b) for a, b in zip(edges, edges[1:], strict=False) if b > a]
    return (
        [float((a * b) ** 0.5) for a, b in pairs],
        [losses[a:b].double().mean().item() for a, b in pairs],
    )


def loss_by_position(
    losses: Mapping[str, Float[Tensor, "positions"]], trained: int, *, title: str = ""
) -> go.Figure:
    """Draw mean loss against position in the text, on a log₂ axis with a line at `trained`.

    Raises: ValueError without losses, or for fewer than 16 positions.
    """
    if not losses or min(map(len, losses.values())) < 2 * FIRST:
        raise ValueError(f"losses: at least one name and {2 * FIRST} positions expected")
    said = []
    figure = new_figure(
        "", width=800, height=430, title_text=title, margin_r=190, showlegend=False,
        margin_t=60 if title else 30,
    )  # fmt: skip
    ends = []
    for n, (name, values) in enumerate(losses.items()):
        x, y = position_bins(values)
        colour = OKABE_ITO[n % 7]
        figure.add_scatter(
            x=x, y=y, name=name, mode="lines+markers",
            line={"color": colour, "dash": DASHES[n % 8], "width": 2.5},
            marker={"symbol": SYMBOLS[n % 8], "size": 7},
            hovertemplate=name + ", position %{x:.0f}: %{y:.2f}<extra></extra>",
        )  # fmt: skip
        ends.append((y[-1], name, colour))
        said.append(f"{name} {within(values, trained):.2f} and {past(values, trained):.2f}")
    heights = [y for trace in figure.data for y in trace.y]
    gap, at = 0.07 * (max(heights) - min(heights) or 1.0), float("-inf")
    for height, name, colour in sorted(ends):
        at = max(height, at + gap)
        figure.add_annotation(
            x=1.01, xref="paper", xanchor="left", y=at, text=name, showarrow=False,
            font={"color": colour},
        )  # fmt: skip
    figure.add_vline(x=trained, line={"color": QUIET, "dash": "dot"})
    figure.add_annotation(
        x=torch.tensor(trained).log2().item() * 0.30103, y=1, yref="paper", yanchor="top",
        text=f"trained up to {trained:,}", showarrow=False, xanchor="right", xshift=-6,
    )  # fmt: skip
    longest = max(map(len, losses.values()))
    ticks = [2**power for power in range(3, longest.bit_length() + 1) if 2**power <= longest * 1.1]
    figure.update_xaxes(
        title_text="position in the text", type="log", tickvals=ticks,
        ticktext=[f"{tick:,}" for tick in ticks],
    )  # fmt: skip
    figure.update_yaxes(title_text="loss (nats per token)")
    figure.layout.meta = {
        "summary": f"Mean loss up to {trained:,} tokens and beyond: {'; '.join(said)}."
    }
    return figure


def within(losses: Float[Tensor, "positions"], trained: int) -> float:
    """Return the mean loss up to the training length, without the first few positions."""
    return losses[FIRST:trained].double().mean().item()


def past(losses: Float[Tensor, "positions"], trained: int) -> float:
    """Return the mean loss beyond the training length."""
    return losses[trained:].double().mean().item()
