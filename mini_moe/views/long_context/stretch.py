"""Three ways to slow down RoPE's pairs for a longer text, pair by pair, with a slider."""

import math
import threading
from dataclasses import replace
from typing import Any, NamedTuple

import plotly.graph_objects as go
from jaxtyping import Float
from plotly.basedatatypes import BaseFigure
from plotly.subplots import make_subplots
from torch import Tensor

from mini_moe.config import ModelConfig
from mini_moe.model.rope import rope_frequencies, yarn_frequencies
from mini_moe.views.long_context.dials import LEAST, new_share, reached
from mini_moe.views.style import (
    DASHES,
    OKABE_ITO,
    QUIET,
    as_widget,
    new_figure,
    safe_callback,
    set_summary,
)  # fmt: skip

FACTORS = (1, 2, 4, 8, 16, 32, 40, 64)
METHODS = ("as trained", "position interpolation", "NTK-aware", "YaRN, by parts")
MARKS = ("circle", "square-open", "diamond", "triangle-up")
COLOURS = (QUIET, OKABE_ITO[0], OKABE_ITO[4], OKABE_ITO[1])


class Stretch(NamedTuple):
    """The frequencies of each method, and their effect on neighbouring and distant tokens."""

    frequencies: dict[str, Float[Tensor, "pairs"]]
    divided: dict[str, list[float]]  # how many times slower each pair turns
    trained: list[float]  # turns of each pair within the training length
    turns: dict[str, list[float]]  # turns within the stretched length

    def unseen(self, name: str) -> int:
        """Count the pairs that reach angles never seen in training."""
        pairs = zip(self.trained, self.turns[name], strict=True)
        return sum(new_share(before, after) > LEAST for before, after in pairs)


def stretched_frequencies(
    config: ModelConfig, trained: int, factor: int | float
) -> dict[str, Float[Tensor, "pairs"]]:
    """Return each method's frequencies for a text `factor` times as long as the training length.

    Position interpolation divides all of them by the factor. NTK-aware changes theta so that the
    first pair keeps its frequency and the last is divided by the factor:
    theta · factor^(width / (width − 2)).
    Source: arXiv 2306.15595 §2.3; YaRN, arXiv 2309.00071 §3.
    """
    width = config.qk_rope_head_dim
    plain = rope_frequencies(width, config.rope_theta)
    theta = config.rope_theta * factor ** (width / (width - 2)) if width > 2 else config.rope_theta
    yarn = replace(config, yarn_factor=float(factor), yarn_original_seq_len=trained)
    made = (plain, plain / factor, rope_frequencies(width, theta), yarn_frequencies(yarn))
    return dict(zip(METHODS, made, strict=True))


def stretch(config: ModelConfig, trained: int, factor: int | float) -> Stretch:
    """Apply all methods at one factor. Raises: ValueError for factor < 1 or trained < 2."""
    if factor < 1 or trained < 2:
        raise ValueError(f"factor={factor} and trained={trained}: at least 1 and 2 expected")
    made = stretched_frequencies(config, trained, factor)
    plain = made[METHODS[0]]
    return Stretch(
        made,
        {name: (plain / f).tolist() for name, f in made.items()},
        reached(plain, trained),
        {name: reached(f, round(trained * factor)) for name, f in made.items()},
    )


def stretch_figure(
    config: ModelConfig, trained: int, factor: int | float, *, title: str = ""
) -> go.Figure:
    """Draw how many times slower each pair turns and, below, how far it gets in the longer text."""
    figure = make_subplots(
        2, 1, shared_xaxes=True, vertical_spacing=0.13,
        subplot_titles=(
            "times slower than trained (1: neighbours stay as far apart as they were)",
            "turns in the longer text (bar ends below the dotted line: anything above it is new)",
        ),
    )  # fmt: skip
    pairs = list(range(config.qk_rope_head_dim // 2))
    few = len(pairs) <= 16  # more marks would hide the lines
    for row in (1, 2):
        for n, name in enumerate(METHODS):
            figure.add_scatter(
                x=pairs, y=[None] * len(pairs), name=name, legendgroup=name, showlegend=row == 1,
                mode="lines+markers" if few else "lines", row=row, col=1,
                line={"color": COLOURS[n], "dash": DASHES[3 - n], "width": 3 if n == 3 else 2},
                marker={"symbol": MARKS[n], "size": 11 if n == 1 else 7},
            )  # fmt: skip
    figure.add_bar(
        x=pairs, y=[None] * len(pairs), name="turns within the training length", row=2, col=1,
        marker={"color": "#D9E8F2", "line": {"color": OKABE_ITO[0], "width": 1 if few else 0}},
        width=0.8,
    )  # fmt: skip
    heading = {"text": title, "y": 0.98, "yanchor": "top"}  # clear of the legend
    base = new_figure("", width=800, height=600, title=heading)
    figure.update_layout(base.layout)
    figure.update_layout(
        margin={"t": 150 if title else 100, "b": 55}, hovermode="x",
        legend={"orientation": "h", "x": 0, "y": 1.08, "yanchor": "bottom"},
    )  # fmt: skip
    figure.update_annotations(x=0, xanchor="left", font={"size": 14})
    figure.update_xaxes(title_text="pair (0 turns fastest)", row=2, col=1)
    figure.update_xaxes(tickvals=pairs[:: max(1, len(pairs) // 8)])
    figure.update_yaxes(type="log", tickformat="~g", row=1, col=1)
    figure.update_yaxes(type="log", tickformat="~g", dtick=1, row=2, col=1)
    figure.add_hline(y=1, line={"color": QUIET, "dash": "dot"}, row=2, col=1)
    draw_stretch(figure, stretch(config, trained, factor), trained, factor)
    return figure


def draw_stretch(figure: BaseFigure, made: Stretch, trained: int, factor: int | float) -> None:
    """Update a figure made by `stretch_figure` with another factor."""
    lines = [*made.divided.values(), *made.turns.values(), made.trained]
    for trace, values in zip(figure.data, lines, strict=True):
        trace.y = values
    factor_ticks = [f for f in (1, 2, 4, 8, 16, 32, 64) if f <= factor] or [1]
    figure.layout.yaxis.update(
        range=[-0.06 * math.log10(max(factor, 2)), 1.12 * math.log10(max(factor, 2))],
        tickvals=factor_ticks,
    )
    low, high = min(made.trained) / 2, max(made.turns[METHODS[0]]) * 2
    figure.layout.yaxis2.range = [math.log10(low), math.log10(high)]
    set_summary(figure, stretch_summary(made, trained, factor))


def stretch_summary(made: Stretch, trained: int, factor: int | float) -> str:
    """ "Factor 8, 2,048 tokens: 4 pairs reach new angles as trained, none with YaRN, …" """
    yarn = made.divided[METHODS[3]]
    kept = sum(times < 1.001 for times in yarn)
    full = sum(times > 0.999 * factor for times in yarn)
    said = ", ".join(f"{made.unseen(name) or 'none'} {how}" for name, how in (
        (METHODS[0], "as trained"), (METHODS[2], "NTK-aware"), (METHODS[3], "with YaRN"),
        (METHODS[1], "interpolated"),
    ))  # fmt: skip
    if factor == 1:
        return f"Factor 1, {trained:,} tokens: nothing changes."
    return (
        f"Factor {factor:g}, {round(trained * factor):,} tokens. Pairs that reach new angles: "
        f"{said}. YaRN leaves {kept} of {len(yarn)} pairs unchanged and divides "
        f"{full} by the full factor."
    )


class StretchLab:
    """A slider for the factor above the figure (`view`); uses one FigureWidget."""

    def __init__(self, config: ModelConfig, trained: int, factor: int = 8) -> None:
        import ipywidgets as widgets  # imported here to keep plain figures fast

        self.config, self.trained = config, trained
        self._lock = threading.RLock()  # a front end may call back from several threads
        self.figure = as_widget(stretch_figure(config, trained, factor))
        self.slider = widgets.SelectionSlider(
            options=FACTORS, value=factor, description="Factor", layout={"width": "420px"}
        )
        self.words, self.error = widgets.HTML(), widgets.HTML()
        self.slider.observe(safe_callback(self.error)(lambda change: self._draw()), names="value")
        self.view = widgets.VBox([self.slider, self.error, self.words, self.figure])
        self._draw()

    def _draw(self) -> None:
        factor = self.slider.value
        with self._lock, self.figure.batch_update():
            made = stretch(self.config, self.trained, factor)
            draw_stretch(self.figure, made, self.trained, factor)
            self.words.value = stretch_summary(made, self.trained, factor)

    def __repr__(self) -> str:
        return self.words.value

    def _repr_mimebundle_(self, **named: Any) -> dict[str, Any]:
        """Return the widgets, with the summary for readers without them."""
        bundle = self.view._repr_mimebundle_(**named) or {}
        return bundle | {"text/plain": repr(self)}
