"""The stage's panels in HTML: chips, next tokens before and after, tables, the static page."""

import html
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mini_moe.model import Transformer
from mini_moe.routing import RoutingTrace, expert_load
from mini_moe.views.sentence import MAX_TOKENS, coloured_sentence, expert_colour
from mini_moe.views.stage.chips import chip
from mini_moe.views.stage.state import (
    Changes,
    Moment,
    Prospect,
    moment_mix,
    moment_steps,
    percent,
    prospects,
)
from mini_moe.views.stepper import step_routing
from mini_moe.views.style import ACCENT, OKABE_ITO, Html, readable_on

MIXED_STEP = 8  # the stepper's seven steps, then the mix


def token_chips(trace: RoutingTrace, layer: int) -> list[dict[str, Any]]:
    """Show each token on the colour of its heaviest expert, with the expert's number below."""
    place, items = trace.layers.index(layer), []
    ids, gates = trace.expert_ids[place].tolist(), trace.gates[place].tolist()
    for n, piece in enumerate(trace.pieces[:MAX_TOKENS]):
        pairs = sorted(zip(gates[n], ids[n], strict=True), reverse=True)
        weights = ", ".join(f"expert {expert} × {gate:.2f}" for gate, expert in pairs)
        colour = expert_colour(pairs[0][1])
        items.append(chip(piece, str(pairs[0][1]), f"token {n} “{piece}”: {weights}", colour,
                          readable_on(colour), end="⏎" in piece))  # fmt: skip
    return items


def expert_chips(moment: Moment, layer: int) -> list[dict[str, Any]]:
    """Show one layer's experts: colours as for tokens, load below; ▲ ▼ mark a changed bias."""
    place, items = moment.after.layers.index(layer), []
    load = expert_load(moment.after.expert_ids[place], moment.after.n_experts).tolist()
    for expert, share in enumerate(load):
        off, bias = (layer, expert) in moment.changes.off, moment.changes.bias.get((layer, expert))
        pushed = ("▲" if bias > 0 else "▼") if bias else ""
        label = "off" if off else f"{pushed}{share:.0%}"
        words = "switched off" if off else f"{share:.1%} of the choices"
        words += f", bias {bias:+.2f}" if bias else ""
        colour = "#FFFFFF" if off else expert_colour(expert)
        items.append(chip(f"{expert:>2}", label, f"expert {expert}: {words}", colour,
                          readable_on(colour), off=off))  # fmt: skip
    return items


def next_table(
    moment: Moment, model: Transformer, position: int, rows: Sequence[Prospect] | None = None,
    font: int = 14,
) -> Html:  # fmt: skip
    """Show the likeliest next tokens in the untouched and the changed model, and the change."""
    rows = prospects(moment, model, position) if rows is None else rows
    after = html.escape(moment.after.pieces[position])
    text = next_summary(moment, position, rows)
    body = "".join(_next_row(row) for row in rows)
    return Html(
        f'<div style="font-size:{font}px;line-height:1.35">'
        f'<div>After <b style="white-space:pre">{after}</b>:</div>'
        '<table style="border-collapse:collapse;font-variant-numeric:tabular-nums">'
        "<thead><tr><th></th><th style='text-align:left'>untouched</th>"
        "<th style='text-align:left'>now</th><th>change</th></tr></thead>"
        f"<tbody>{body}</tbody></table><div role='status'>{html.escape(text)}</div></div>", text,
    )  # fmt: skip


def next_summary(moment: Moment, position: int, rows: Sequence[Prospect]) -> str:
    """Say what happens to the untouched model's likeliest token."""
    best = rows[0]
    if not str(moment.changes):
        return f"“{best.piece}” is the likeliest, with {percent(best.before)}."
    now = max(rows, key=lambda row: row.after)
    leads = "it still leads" if now.token == best.token else f"now “{now.piece}” leads"
    goes = f"goes from {percent(best.before)} to {percent(best.after)}"
    return f"“{best.piece}” {goes}; {leads} with {percent(now.after)}."


def _next_row(row: Prospect) -> str:
    change = 100 * (row.after - row.before)
    arrow = "▲" if change >= 0.5 else "▼" if change <= -0.5 else "="
    points = f"{arrow} {change:+.0f}" if arrow != "=" else "="
    piece = html.escape(row.piece if len(row.piece) <= 14 else row.piece[:13] + "…")
    return (
        '<tr><td style="white-space:pre;text-align:right;padding:1px 8px"><span style="border:1px '
        f'solid #999;border-radius:3px;padding:0 4px"><bdi>{piece}</bdi></span></td>'
        f"{_bar(row.before, OKABE_ITO[0])}{_bar(row.after, ACCENT)}"
        f'<td style="text-align:right;padding:1px 8px;white-space:nowrap">{points}</td></tr>'
    )


def _bar(share: float, colour: str) -> str:
    return (
        '<td style="padding:1px 6px;white-space:nowrap"><span style="display:inline-block;'
        f'width:5em"><span style="display:inline-block;height:0.8em;width:{5 * share:.3f}em;'
        f'background:{colour}"></span></span><span style="display:inline-block;width:3.4em;'
        f'text-align:right">{percent(share)}</span></td>'
    )


def step_table(
    moment: Moment, model: Transformer, layer: int, token: int, step: int, font: int = 13
) -> Html:
    """Show one token's way through one layer, up to `step`; step eight mixes the outputs."""
    mix = moment_mix(moment, model, layer, token)
    steps = moment_steps(moment, model, layer, token)
    config = replace(model.config, top_k=moment.after.expert_ids.shape[-1])
    named = f"Token {token} “{moment.after.pieces[token]}” in layer {layer}. "
    return step_routing(
        steps, config, step, mixed=mix.routed, shared=mix.shared, before=named, font=font
    )


def status_line(changes: Changes) -> str:
    """Say what was changed, or that nothing was; never by colour alone."""
    words = str(changes)
    if not words:
        return '<span style="opacity:0.75">● The model is as it was trained.</span>'
    return (
        '<span style="background:#FFF0D6;color:#000;border-left:5px solid #D55E00;padding:2px 8px">'
        f"<b>✎ Changed:</b> {html.escape(words)}</span>"
    )


def picture_tables(moment: Moment, layer: int) -> str:
    """Return the picture as two tables: each token's choices, each expert's load."""
    trace, place = moment.after, moment.after.layers.index(layer)
    rows = []
    for n, piece in enumerate(trace.pieces[:MAX_TOKENS]):
        ids, gates = trace.expert_ids[place, n].tolist(), trace.gates[place, n].tolist()
        rows.append([n, piece, *(f"{e} × {g:.2f}" for e, g in zip(ids, gates, strict=True))])
    choices = html_table(["token", "", *(f"choice {k + 1}" for k in range(len(ids)))], rows)
    now, before = (
        expert_load(t.expert_ids[place], trace.n_experts).tolist() for t in (trace, moment.before)
    )
    loads = [[e, f"{now[e]:.1%}", f"{before[e]:.1%}"] for e in range(trace.n_experts)]
    return choices + html_table(["expert", "load", "untouched"], loads)


def html_table(head: Sequence[Any], rows: Sequence[Sequence[Any]]) -> str:
    """Return a plain table; every cell is escaped text."""
    style = 'style="padding:1px 8px;text-align:right;white-space:pre"'
    cells = "".join(f"<th {style}>{html.escape(str(name))}</th>" for name in head)
    body = "".join(
        "<tr>" + "".join(f"<td {style}>{html.escape(str(v))}</td>" for v in row) + "</tr>"
        for row in rows
    )
    return (
        '<table style="border-collapse:collapse;margin:4px 0;line-height:1.35;'
        'font-variant-numeric:tabular-nums">'
        f"<thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>"
    )


def still_page(
    moment: Moment, model: Transformer, layer: int, token: int, summaries: Sequence[str],
    tables: Sequence[tuple[str, str]] = (),
) -> str:  # fmt: skip
    """Return the whole stage as static HTML, for readers without widgets."""
    parts = [
        status_line(moment.changes),
        coloured_sentence(moment.after, layer, selected=token).html,
        next_table(moment, model, token).html,
        *(f"<p><i>{html.escape(summary)}</i></p>" for summary in summaries if summary),
        step_table(moment, model, layer, token, MIXED_STEP).html,
    ]
    folds = [("Choices and load as tables", picture_tables(moment, layer)), *tables]
    parts += [f"<details><summary>{name}</summary>{content}</details>" for name, content in folds]
    return "".join(f'<div style="margin:8px 0">{part}</div>' for part in parts)
