"""A text whose tokens show the colour and number of their top expert."""

import html

from mini_moe.routing import RoutingTrace
from mini_moe.views.style import OKABE_ITO, Html, readable_on

MAX_TOKENS = 600  # more would slow the page down; the rest is only counted


def expert_colour(expert: int) -> str:
    """Return one of eight hues, then the same paler, then repeat; the number tells them apart."""
    hue = OKABE_ITO[expert % 8]
    return _tint(hue, 0.55) if expert // 8 % 2 else hue


def _tint(colour: str, towards_white: float) -> str:
    channels = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(c + (255 - c) * towards_white):02X}" for c in channels)


def layer_place(trace: RoutingTrace, layer: int | None) -> int:
    """Return a layer's index in the trace; None means the first layer with experts.

    Raises: ValueError for a layer without experts.
    """
    if layer is None:
        return 0
    if layer not in trace.layers:
        raise ValueError(f"layer={layer}: one with experts expected, {list(trace.layers)}")
    return trace.layers.index(layer)


def coloured_sentence(
    trace: RoutingTrace, layer: int | None = None, selected: int | None = None
) -> Html:
    """Show each token on the colour of its heaviest expert in one layer, with its number below.

    Hovering over a token shows all its experts and gates. `selected` frames one token.
    """
    place = layer_place(trace, layer)
    ids = trace.expert_ids[place].tolist()
    gates = trace.gates[place].tolist()
    shown = min(len(trace.pieces), MAX_TOKENS)
    chips = [
        _chip(n, trace.pieces[n], ids[n], gates[n], framed=n == selected) for n in range(shown)
    ]
    left_out = len(trace.pieces) - shown
    note = f"<div>… and {left_out} more tokens.</div>" if left_out else ""
    text = sentence_summary(trace, layer)
    body = (
        f'<div role="group" aria-label="{html.escape(text)}" '
        f'style="line-height:1.15;font-size:15px">{"".join(chips)}{note}</div>'
    )
    return Html(body, text)


def _chip(n: int, piece: str, ids: list[int], gates: list[float], framed: bool) -> str:
    pairs = sorted(zip(gates, ids, strict=True), reverse=True)
    background = expert_colour(pairs[0][1])
    weights = ", ".join(f"expert {expert} × {gate:.2f}" for gate, expert in pairs)
    title = html.escape(f"token {n} “{piece}”: {weights}")
    frame = "outline:2px solid #000;outline-offset:1px;" if framed else ""
    chip = (
        f'<span title="{title}" style="display:inline-block;text-align:center;margin:0 1px 5px 0">'
        f'<span style="display:block;background:{background};color:{readable_on(background)};'
        f'{frame}border-radius:3px;padding:2px 3px;white-space:pre">{html.escape(piece)}</span>'
        f'<span style="font-size:11px">{pairs[0][1]}</span></span>'
    )
    return chip + ("<br>" if "⏎" in piece else "")


def sentence_summary(trace: RoutingTrace, layer: int | None = None) -> str:
    """ "In layer 1, 9 tokens have 6 first choices among 16 experts; expert 3 leads for 4." """
    place = layer_place(trace, layer)
    heaviest = trace.gates[place].argmax(dim=-1, keepdim=True)
    first = trace.expert_ids[place].gather(-1, heaviest).flatten()
    counts = first.bincount(minlength=trace.n_experts)
    busiest = int(counts.argmax())
    return (
        f"In layer {trace.layers[place]}, {len(first)} tokens have "
        f"{int((counts > 0).sum())} first choices among {trace.n_experts} experts; "
        f"expert {busiest} leads for {int(counts[busiest])}."
    )
