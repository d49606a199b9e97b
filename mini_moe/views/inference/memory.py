"""How a cache grows with the text, by what attention stores per token."""

import math
from collections.abc import Mapping

import plotly.graph_objects as go

from mini_moe.views.style import DASHES, OKABE_ITO, SYMBOLS, new_figure

GIGA = 1e9


def cache_growth(
    bytes_per_token: Mapping[str, int], *, mark: int = 131_072, title: str = ""
) -> go.Figure:
    """Draw gigabytes of cache against tokens on log axes, with the sizes at `mark` tokens.

    Raises: ValueError without names, for bytes that are not above 0, or for a mark below 1,024.
    """
    if not bytes_per_token or min(bytes_per_token.values()) <= 0:
        raise ValueError("bytes_per_token: at least one name, and bytes above 0, expected")
    if mark < 1024:
        raise ValueError(f"mark={mark}: at least 1,024 tokens expected")
    lengths = [mark / 2**power for power in range((mark // 256).bit_length() - 1, -1, -1)]
    at_mark = {name: size * mark / GIGA for name, size in bytes_per_token.items()}
    ordered = sorted(at_mark, key=at_mark.__getitem__, reverse=True)
    most, least = ordered[0], ordered[-1]
    figure = new_figure(
        f"{mark:,} tokens: {most} {at_mark[most]:.3g} GB, {least} {at_mark[least]:.3g} GB; "
        "every line is straight, since each token adds the same number of bytes.",
        width=800, height=430, title_text=title, margin_r=230, showlegend=False,
    )  # fmt: skip
    for n, (name, size) in enumerate(bytes_per_token.items()):
        figure.add_scatter(
            x=lengths, y=[size * length / GIGA for length in lengths], name=name,
            mode="lines+markers", line={"color": OKABE_ITO[n % 7], "dash": DASHES[n % 8]},
            marker={"symbol": SYMBOLS[n % 8], "size": 7},
            hovertemplate=name + ", %{x:,} tokens: %{y:.3g} GB<extra></extra>",
        )  # fmt: skip
    _name_lines(figure, at_mark, list(bytes_per_token))
    ticks = lengths[::2] if len(lengths) % 2 else lengths[1::2]
    figure.update_xaxes(
        title_text="tokens in the cache", type="log", tickvals=ticks,
        ticktext=[f"{tick / 1024:g}K" for tick in ticks],
    )  # fmt: skip
    figure.update_yaxes(title_text="gigabytes", type="log", dtick=1, tickformat="~g")
    return figure


def _name_lines(figure: go.Figure, at_mark: Mapping[str, float], names: list[str]) -> None:
    """Write names and gigabytes on the right, moved apart where they would overlap."""
    heights = [math.log10(y) for trace in figure.data for y in trace.y]
    gap = 0.06 * (max(heights) - min(heights))
    at = -math.inf
    for name in sorted(at_mark, key=at_mark.__getitem__):
        at = max(at + gap, math.log10(at_mark[name]))
        colour = OKABE_ITO[names.index(name) % 7]
        figure.add_annotation(
            x=1.015, xref="paper", xanchor="left", y=at, showarrow=False,
            text=f"{name}: {at_mark[name]:,.3g} GB", font={"color": colour},
        )  # fmt: skip
