"""Which tokens can come next, and how temperature and filters change that."""

import threading
from typing import Any, NamedTuple

import plotly.graph_objects as go
import torch
from jaxtyping import Float
from plotly.basedatatypes import BaseFigure
from torch import Tensor

from mini_moe.inference.sampling import Sampling, next_probabilities
from mini_moe.text import Tokenizer
from mini_moe.views.style import OKABE_ITO, QUIET, as_widget, new_figure, safe_callback, set_summary


class Choices(NamedTuple):
    """The likeliest tokens: probabilities by the model, with temperature, and when sampling."""

    names: list[str]  # the model's likeliest tokens, best first
    own: list[float]  # probabilities at temperature 1, unfiltered
    warmed: list[float]  # at the chosen temperature, unfiltered
    drawn: list[float]  # the distribution that is sampled from
    n_left: int  # tokens of the whole vocabulary that can still be drawn
    beyond: float  # total probability of the tokens not listed


def choices(
    logits: Float[Tensor, "vocab"], tokenizer: Tokenizer, sampling: Sampling, count: int = 12
) -> Choices:
    """Return the `count` likeliest tokens. Raises: ValueError unless all logits are finite."""
    logits = logits.float()[: tokenizer.vocab_size]
    drawn = next_probabilities(logits, sampling)
    plain = Sampling(temperature=sampling.temperature, top_p=1.0)
    warmed = next_probabilities(logits, plain)
    best = logits.softmax(dim=-1).topk(min(count, len(logits)))
    names = [f"{n + 1}  {piece}" for n, piece in enumerate(tokenizer.pieces(best.indices.tolist()))]
    shares = (best.values, warmed[best.indices], drawn[best.indices])
    own, warm, kept = (share.tolist() for share in shares)
    return Choices(names, own, warm, kept, int((drawn > 0).sum()), max(0.0, 1 - sum(kept)))


def sampling_bars(
    logits: Float[Tensor, "vocab"], tokenizer: Tokenizer, sampling: Sampling, *,
    count: int = 12, title: str = "",
) -> go.Figure:  # fmt: skip
    """Draw the sampling distribution; hatched bars are filtered out, ticks mark the model's own."""
    found = choices(logits, tokenizer, sampling, count)
    figure = new_figure(
        "", width=760, height=150 + 24 * len(found.names), title_text=title, barmode="overlay",
        margin_t=90 if title else 50,
        legend={"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom"},
    )  # fmt: skip
    figure.add_bar(orientation="h", name="can be drawn", marker_color=OKABE_ITO[0])
    hatch = {"shape": "/", "fgcolor": QUIET, "bgcolor": "#FFFFFF", "fillmode": "replace"}
    figure.add_bar(orientation="h", name="cut", marker={
        "color": QUIET, "pattern": hatch, "line": {"color": QUIET, "width": 1}})  # fmt: skip
    figure.add_scatter(mode="markers", name="the model itself (temperature 1)", marker={
        "symbol": "line-ns", "size": 13, "line": {"width": 3, "color": OKABE_ITO[1]}})  # fmt: skip
    figure.add_scatter(mode="text", textposition="middle left", showlegend=False)
    ticks = [0, 0.2, 0.4, 0.6, 0.8, 1]
    figure.update_xaxes(title_text="probability", range=[0, 1.12], tickvals=ticks, tickformat=".0%")
    figure.update_yaxes(autorange="reversed", showgrid=False)
    draw_choices(figure, found, sampling)
    return figure


def draw_choices(figure: BaseFigure, found: Choices, sampling: Sampling) -> None:
    """Redraw a `sampling_bars` figure with new probabilities."""
    pairs = list(zip(found.warmed, found.drawn, strict=True))
    kept = [drawn for _, drawn in pairs]
    cut = [0.0 if drawn else warmed for warmed, drawn in pairs]
    shares = (kept, cut, found.own, [1.12] * len(kept))
    for trace, x in zip(figure.data, shares, strict=True):
        trace.update(x=x, y=found.names)
    figure.data[3].text = [percent(share) if share else "cut" for share in kept]
    set_summary(figure, choices_summary(found, sampling))


def percent(share: float) -> str:
    """Format "12%", or "< 1%" if it would round to zero."""
    return f"{share:.0%}" if share >= 0.005 else "< 1%"


def choices_summary(found: Choices, sampling: Sampling) -> str:
    """ "Temperature 0.8, top-p 0.95, min-p 0: 7 tokens possible; the likeliest has 61%." """
    beyond = f", tokens not shown {found.beyond:.0%}" if found.beyond > 0.005 else ""
    many = f"{found.n_left:,} tokens" if found.n_left > 1 else "one token"
    return (
        f"Temperature {sampling.temperature:g}, top-p {sampling.top_p:g}, min-p "
        f"{sampling.min_p:g}: {many} possible; the likeliest has {max(found.drawn):.0%}{beyond}."
    )


class SamplingLab:
    """Three sliders above the bars (`view`); uses one FigureWidget."""

    def __init__(
        self, logits: Float[Tensor, "vocab"], tokenizer: Tokenizer,
        sampling: Sampling | None = None, count: int = 12,
    ) -> None:  # fmt: skip
        import ipywidgets as widgets  # imported here to keep plain figures fast

        start = sampling or Sampling(temperature=1.0, top_p=1.0)
        self.logits, self.tokenizer, self.count = torch.as_tensor(logits), tokenizer, count
        self._lock = threading.RLock()  # a front end may call back from several threads
        self.figure = as_widget(sampling_bars(logits, tokenizer, start, count=count))
        wide = {"width": "420px"}
        named = {"style": {"description_width": "95px"}, "layout": wide}
        self.temperature = widgets.FloatSlider(
            value=start.temperature, min=0, max=2, step=0.1, description="Temperature", **named
        )
        self.top_p = widgets.FloatSlider(
            value=start.top_p, min=0.05, max=1, step=0.05, description="Top-p", **named
        )
        self.min_p = widgets.FloatSlider(
            value=start.min_p, min=0, max=1, step=0.05, description="Min-p", **named
        )
        self.words, self.error = widgets.HTML(), widgets.HTML()
        redraw = safe_callback(self.error)(lambda change: self._draw())
        controls = [self.temperature, self.top_p, self.min_p]
        for control in controls:
            control.observe(redraw, names="value")
        self.view = widgets.VBox([*controls, self.error, self.words, self.figure])
        self._draw()

    @property
    def sampling(self) -> Sampling:
        """The settings the sliders currently show."""
        return Sampling(
            temperature=round(self.temperature.value, 2), top_p=round(self.top_p.value, 2),
            min_p=round(self.min_p.value, 2),
        )  # fmt: skip

    def _draw(self) -> None:
        with self._lock, self.figure.batch_update():
            found = choices(self.logits, self.tokenizer, self.sampling, self.count)
            draw_choices(self.figure, found, self.sampling)
            self.words.value = choices_summary(found, self.sampling)

    def __repr__(self) -> str:
        return self.words.value

    def _repr_mimebundle_(self, **named: Any) -> dict[str, Any]:
        """Return the widgets, with the summary for readers without them."""
        bundle = self.view._repr_mimebundle_(**named) or {}
        return bundle | {"text/plain": repr(self)}
