"""The cost of a pass over some tokens: FLOPs of naive and absorbed attention, measured time."""

import math
from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from mini_moe.config import ModelConfig
from mini_moe.inference.engine.absorption import absorbed_flops, crossover, naive_flops
from mini_moe.views.style import ACCENT, DASHES, OKABE_ITO, QUIET, SYMBOLS, new_figure

DOUBLING = {"type": "log"}


def crossover_curves(config: ModelConfig, keys: int, *, title: str = "") -> go.Figure:
    """Draw the FLOPs of one layer's heads, naive and absorbed, against the tokens read at once.

    Raises: ValueError unless keys is at least 2.
    """
    if keys < 2:
        raise ValueError(f"keys={keys}: more than one cached token expected")
    meeting = crossover(config, keys)
    new = [2**power for power in range(int(math.log2(keys)) + 1)]
    ways = {
        "naive": [naive_flops(config, n, keys) / 1e9 for n in new],
        "absorbed": [absorbed_flops(config, n, keys) / 1e9 for n in new],
    }
    figure = new_figure(
        f"One new token with {keys:,} in the cache: naive {ways['naive'][0]:.3g} GFLOP per layer, "
        f"absorbed {ways['absorbed'][0]:.3g}. They are equal at {meeting:,.0f} new tokens.",
        width=780, height=420, title_text=title, margin_r=120, showlegend=False,
    )  # fmt: skip
    for n, (name, flops) in enumerate(ways.items()):
        figure.add_scatter(
            x=new, y=flops, name=name, mode="lines+markers",
            line={"color": OKABE_ITO[n], "dash": DASHES[n], "width": 2.5},
            marker={"symbol": SYMBOLS[n], "size": 7},
        )  # fmt: skip
        figure.add_annotation(
            x=1.01, xref="paper", xanchor="left", y=math.log10(flops[-1]), text=name,
            showarrow=False, font={"color": OKABE_ITO[n]},
        )  # fmt: skip
    if 1 < meeting < new[-1]:
        figure.add_vline(x=meeting, line={"color": QUIET, "dash": "dot"})
        figure.add_annotation(
            x=math.log10(meeting), y=0.03, yref="paper", text=f"equal at {meeting:,.0f}",
            showarrow=False, xanchor="right", xshift=-6,
        )  # fmt: skip
    _by_doubling(figure, new, "new tokens in one pass")
    figure.update_yaxes(title_text="GFLOP per layer", type="log", dtick=1, tickformat=",~g")
    return figure


def pass_curve(
    seconds: Mapping[int, int | float],
    floors: Mapping[str, Sequence[int | float]] | None = None,
    *,
    title: str = "",
) -> go.Figure:
    """Draw milliseconds per pass against the tokens it reads, with a lower bound for each limit.

    `floors` maps each limit to its least seconds at each size; no pass can beat the highest floor.
    Raises: ValueError without sizes, or for floors of a different length.
    """
    if not seconds:
        raise ValueError("seconds: at least one size expected")
    sizes = sorted(seconds)
    floors = floors or {}
    for name, floor in floors.items():
        if len(floor) != len(sizes):
            raise ValueError(f"floors[{name!r}]: {len(sizes)} numbers expected, got {len(floor)}")
    one, last = seconds[sizes[0]], seconds[sizes[-1]]
    figure = new_figure(
        f"{sizes[0]} token takes {1e3 * one:.2f} ms, {sizes[-1]} tokens {1e3 * last:.2f} ms: "
        f"{sizes[-1] / sizes[0]:.0f} times the tokens in {last / one:.1f} times the time.",
        width=830, height=430, title_text=title, margin_r=215, showlegend=False,
    )  # fmt: skip
    lines = {"measured": [seconds[size] for size in sizes], **floors}
    names = []
    for n, (name, values) in enumerate(lines.items()):
        colour = ACCENT if n == 0 else OKABE_ITO[(0, 2, 3)[(n - 1) % 3]]
        figure.add_scatter(
            x=sizes, y=[1e3 * value for value in values], name=name,
            mode="lines+markers" if n == 0 else "lines",
            line={"color": colour, "dash": DASHES[n], "width": 3 if n == 0 else 1.5},
            marker={"symbol": SYMBOLS[n], "size": 8},
        )  # fmt: skip
        names.append((math.log10(1e3 * values[-1]), name if n == 0 else f"least: {name}", colour))
    heights = [math.log10(y) for trace in figure.data for y in trace.y]
    gap, at = 0.065 * (max(heights) - min(heights)), -math.inf
    for height, name, colour in sorted(names):
        at = max(height, at + gap)
        figure.add_annotation(
            x=1.015, xref="paper", xanchor="left", y=at, text=name, showarrow=False,
            font={"color": colour},
        )  # fmt: skip
    _by_doubling(figure, sizes, "tokens read in one pass")
    figure.update_yaxes(title_text="ms per pass", type="log", dtick="D2", tickformat="~g")
    return figure


def _by_doubling(figure: go.Figure, sizes: Sequence[int], title: str) -> None:
    shown = sizes[:: max(1, math.ceil(len(sizes) / 9))]
    figure.update_xaxes(
        title_text=title, tickvals=list(shown), ticktext=[f"{size:,}" for size in shown], **DOUBLING
    )
