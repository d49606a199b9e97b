"""A text whose tokens carry the colour and the number of the expert they went to first."""

import html

from mini_moe.routing import RoutingTrace
from mini_moe.views.style import OKABE_ITO, Html, readable_on

MAX_TOKENS = 600  # more would make the page slow; the rest is left out and counted


def expert_colour(expert: int) -> str:
    """Eight hues, then the same paler, then again; the number tells apart what colour cannot."""
    hue = OKABE_ITO[expert % 8]
    return _tint(hue, 0.55) if expert // 8 % 2 else hue


def _tint(colour: str, towards_white: float) -> str:
    channels = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(c + (255 - c) * towards_white):02X}" for c in channels)


def layer_place(trace: RoutingTrace, layer: int | None) -> int:
    """Where a layer of the model stands in the trace; None is the first one with experts.

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
    """Every token on the colour of its heaviest expert in one layer, that expert's number below.

    Pointing at a token shows all its experts and gates. `selected` frames one token.
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
    """ "Layer 1 sends 9 tokens first to 6 of 16 experts; expert 3 is first for 4 of them." """
    place = layer_place(trace, layer)
    heaviest = trace.gates[place].argmax(dim=-1, keepdim=True)
    first = trace.expert_ids[place].gather(-1, heaviest).flatten()
    counts = first.bincount(minlength=trace.n_experts)
    busiest = int(counts.argmax())
    return (
        f"Layer {trace.layers[place]} sends {len(first)} tokens first to "
        f"{int((counts > 0).sum())} of {trace.n_experts} experts; expert {busiest} is first for "
        f"{int(counts[busiest])} of them."
    )
