"""Which angles a model saw in training, pair by pair, and which ones a longer text adds."""

import math

import plotly.graph_objects as go
import torch
from jaxtyping import Float
from torch import Tensor

from mini_moe.views.style import ACCENT, OKABE_ITO, new_figure

MOST = 16  # dials per picture
ROW = 8  # dials per row
ROW_HEIGHT = 1.35  # in dial widths
RADIUS, OUTER = 0.36, 0.42  # radius of the arcs for seen and for new angles
WIDE = 98  # width of a dial in pixels
LEAST = 0.005  # of a turn; anything smaller doesn't count as new


def angle_dials(
    frequencies: Float[Tensor, "pairs"],
    trained: int,
    longer: int,
    *,
    now: Tensor | None = None,
    title: str = "",
) -> go.Figure:
    """Draw a dial per pair: angles reached within `trained` tokens, and new ones within `longer`.

    `now` gives the frequencies used for the longer text, if they differ. With more than 16 pairs,
    only 16 are shown, evenly spaced.
    Raises: ValueError unless 2 ≤ trained ≤ longer, or if `now` has a different number of pairs.
    """
    if not 2 <= trained <= longer:
        raise ValueError(f"trained={trained} and longer={longer}: 2 ≤ trained ≤ longer expected")
    now = frequencies if now is None else now
    if now.shape != frequencies.shape:
        raise ValueError(f"now: {len(frequencies)} frequencies expected, got {len(now)}")
    before = reached(frequencies, trained)
    after = reached(now, longer)
    chosen = torch.linspace(0, len(before) - 1, min(MOST, len(before))).round().long().tolist()
    rows = -(-len(chosen) // ROW)
    figure = new_figure(
        dials_summary(before, after, trained, longer),
        width=40 + WIDE * min(ROW, len(chosen)), height=(90 if title else 50) + 40 + 132 * rows,
        title_text=title, margin={"l": 20, "r": 20, "t": 90 if title else 50, "b": 20},
        legend={"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom"},
    )  # fmt: skip
    for place, pair in enumerate(chosen):
        _dial(figure, place, pair, before[pair], after[pair])
    figure.update_xaxes(visible=False, range=[-0.5, min(ROW, len(chosen)) - 0.5])
    figure.update_yaxes(visible=False, range=[0.80 - ROW_HEIGHT * rows, 0.62], scaleanchor="x")
    return figure


def reached(frequencies: Float[Tensor, "pairs"], length: int) -> list[float]:
    """Return the turns between the first and the last of `length` tokens."""
    return (frequencies.double() * (length - 1) / (2 * math.pi)).tolist()


def new_share(before: int | float, after: int | float) -> float:
    """Return the part of a turn that `after` turns reach and `before` turns did not."""
    return max(0.0, min(after, 1.0) - min(before, 1.0))


def dials_summary(before: list[float], after: list[float], trained: int, longer: int) -> str:
    """ "In 256 tokens 4 of 8 pairs complete a turn; in 2,048 tokens 4 pairs reach new angles …" """
    round_ = sum(turns >= 1 for turns in before)
    shares = [new_share(b, a) for b, a in zip(before, after, strict=True)]
    new = sum(share > LEAST for share in shares)
    return (
        f"In {trained:,} tokens {round_} of {len(before)} pairs complete a turn; "
        f"in {longer:,} tokens {new or 'no'} pair{'' if new == 1 else 's'} "
        f"reach{'es' if new == 1 else ''} angles never seen in training"
        f"{f', up to {max(shares):.0%} of a turn' if new else ''}."
    )


def _dial(figure: go.Figure, place: int, pair: int, before: float, after: float) -> None:
    """Add one dial: rim, arc of seen angles, arc of new angles and two lines of text."""
    x, y = float(place % ROW), -ROW_HEIGHT * (place // ROW)
    first = place == 0
    rim = _arc(x, y, RADIUS, 0.0, 1.0)
    figure.add_scatter(
        x=rim[0], y=rim[1], mode="lines", line={"color": "#DDDDDD", "width": 1}, hoverinfo="skip",
        showlegend=False, name="rim",
    )  # fmt: skip
    seen = _arc(x, y, RADIUS, 0.0, min(before, 1.0))
    figure.add_scatter(
        x=[x, *seen[0], x], y=[y, *seen[1], y], mode="lines", fill="toself",
        line={"color": OKABE_ITO[0], "width": 3}, fillcolor="rgba(0,114,178,0.18)",
        hoverinfo="skip", legendgroup="seen", showlegend=first, name="angles seen in training",
    )  # fmt: skip
    if new_share(before, after) > LEAST:
        arc = _arc(x, y, OUTER, min(before, 1.0), min(after, 1.0))
    else:
        arc = ([None], [None])  # keeps the orange entry in the legend
    figure.add_scatter(
        x=arc[0], y=arc[1], mode="lines", line={"color": ACCENT, "width": 6, "dash": "2px,2px"},
        hoverinfo="skip", legendgroup="new", showlegend=first, name="new ones in the longer text",
    )  # fmt: skip
    figure.add_annotation(x=x, y=y + 0.53, text=f"<b>pair {pair}</b>", showarrow=False)
    figure.add_annotation(
        x=x, y=y - 0.56, text=f"{turns_text(before)} → {turns_text(after)}", showarrow=False,
        font={"size": 12},
    )  # fmt: skip


def turns_text(turns: float) -> str:
    """Format turns with two significant digits: "41", "4.1", "0.13", "0.013"."""
    return f"{turns:,.0f}" if turns >= 9.95 else f"{turns:.2g}"


def _arc(x: float, y: float, radius: float, start: float, end: float) -> tuple[list, list]:
    """Return points from `start` to `end` turns, clockwise from twelve o'clock."""
    steps = max(2, round(72 * (end - start)))
    turns = [start + (end - start) * step / steps for step in range(steps + 1)]
    return (
        [x + radius * math.sin(2 * math.pi * turn) for turn in turns],
        [y + radius * math.cos(2 * math.pi * turn) for turn in turns],
    )
