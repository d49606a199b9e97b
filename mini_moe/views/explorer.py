"""Type some text and watch where every token goes: a live view of a model's routing."""

import html
import threading
import time
from typing import Any

import torch

from mini_moe.model import Transformer
from mini_moe.routing import RoutingTrace, trace_routing
from mini_moe.views.routing import MAX_TOKENS, draw_routing, routing_heatmap
from mini_moe.views.sentence import coloured_sentence, layer_place
from mini_moe.views.style import Html, as_widget, safe_callback, summary_of

FIRST_TEXT = "Anna found a small key under the old tree. 12 + 30 = 42"
CHARACTERS_PER_TOKEN = 64  # upper bound, so that only the readable part of a book is tokenized


def explore_routing(
    model: Transformer, text: str = FIRST_TEXT, layer: int | None = None
) -> "RoutingExplorer":
    """Show a text box, a layer slider, the coloured sentence and the heatmap, all live.

    Raises: ValueError for a model without a tokenizer or without experts.
    """
    return RoutingExplorer(model, text, layer)


class RoutingExplorer:
    """The explorer's widgets (`view`) and what they currently show (`trace`, `layer`)."""

    def __init__(
        self, model: Transformer, text: str = FIRST_TEXT, layer: int | None = None
    ) -> None:
        import ipywidgets as widgets  # imported here to keep plain figures fast

        if model.tokenizer is None:
            raise ValueError("model: one with a tokenizer expected; load_hf attaches one")
        self.model, self.milliseconds = model, 0.0
        self._lock = threading.RLock()  # a front end may call back from several threads
        self.trace, remark = read_text(model, text)
        if self.trace is None:
            raise ValueError(f"text: {remark}")
        self.figure = as_widget(routing_heatmap(self.trace, layer))
        wide = {"width": "98%", "max_width": "1040px"}
        self.text = widgets.Textarea(value=text, description="Your text", rows=2, layout=wide)
        layers = self.trace.layers
        self.slider = widgets.SelectionSlider(
            options=list(layers), value=layers[layer_place(self.trace, layer)],
            description="Layer", layout={"width": "320px"},
        )  # fmt: skip
        self.remark = widgets.HTML(remark)
        self.sentence, self.predictions = widgets.HTML(), widgets.HTML()
        self.error = widgets.HTML()
        callback = safe_callback(self.error)(lambda change: self.refresh())
        self.text.observe(callback, names="value")
        self.slider.observe(callback, names="value")
        self.view = widgets.VBox(
            [self.text, widgets.HBox([self.slider, self.remark]), self.error, self.sentence,
             self.predictions, self.figure]
        )  # fmt: skip
        self._draw()

    @property
    def layer(self) -> int:
        """The layer of the model being shown."""
        return self.slider.value

    def refresh(self) -> None:
        """Read the text box and the slider, run the model and redraw."""
        with self._lock:
            started = time.perf_counter()
            trace, remark = read_text(self.model, self.text.value)
            self.remark.value = remark
            if trace is not None:
                self.trace = trace
                self._draw()
            self.milliseconds = 1000 * (time.perf_counter() - started)

    def _draw(self) -> None:
        self.sentence.value = coloured_sentence(self.trace, self.layer).html
        self.predictions.value = next_tokens(self.trace, self.model).html
        with self.figure.batch_update():
            draw_routing(self.figure, self.trace, self.layer)

    def __repr__(self) -> str:
        return summary_of(self.figure)

    def _repr_mimebundle_(self, **named: Any) -> dict[str, Any]:
        """Return the widgets, with static HTML and text for readers without them."""
        still = coloured_sentence(self.trace, self.layer).html + self.predictions.value
        bundle = self.view._repr_mimebundle_(**named) or {}
        return bundle | {"text/html": still, "text/plain": repr(self)}


def read_text(model: Transformer, text: str) -> tuple[RoutingTrace | None, str]:
    """Trace any text, clipped to what the model can read; return the trace and a remark.

    An empty text gives no trace. Lone surrogates that a browser may send become "?".
    """
    ids, remark = clip_text(model, text)
    if ids is None:
        return None, remark
    if not remark and len(ids) > MAX_TOKENS:
        remark = f"{len(ids)} tokens; the heatmap draws the last {MAX_TOKENS}."
    return trace_routing(model, ids), remark


def clip_text(model: Transformer, text: str) -> tuple[list[int] | None, str]:
    """Return the tokens of a text that the model can read, and a remark (HTML) on the rest."""
    limit = model.config.max_seq_len
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    clipped = whole[: CHARACTERS_PER_TOKEN * limit]
    try:
        ids = model.tokenizer.encode(clipped)
    except ValueError as error:  # a character-level tokenizer doesn't know every character
        return None, html.escape(str(error))
    if not ids:
        return None, "Type at least one character."
    if len(ids) > limit or len(clipped) < len(whole):
        return ids[:limit], f"The model reads {limit} tokens; the rest of your text is ignored."
    return ids, ""


def next_tokens(trace: RoutingTrace, model: Transformer, count: int = 5) -> Html:
    """Return the most probable tokens after the text, with their probabilities."""
    best = torch.softmax(trace.logits[-1].float(), dim=-1).topk(count)
    pieces = model.tokenizer.pieces(best.indices.tolist())
    pairs = [(piece, f"{p:.0%}") for piece, p in zip(pieces, best.values.tolist(), strict=True)]
    chips = " ".join(
        f'<span style="border:1px solid #999;border-radius:3px;padding:1px 4px;white-space:pre">'
        f"{html.escape(piece)}</span>&nbsp;{share}&ensp;"
        for piece, share in pairs
    )
    text = "The model expects next: " + ", ".join(f"{piece} {share}" for piece, share in pairs)
    return Html(f'<div style="font-size:14px">The model expects next: {chips}</div>', text)
