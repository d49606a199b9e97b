"""A haystack to read, with the needle, the other needles and the question in colour."""

import html

from mini_moe.experiments.needle import NeedleExample
from mini_moe.views.style import OKABE_ITO, QUIET, Html, readable_on

NEEDLE, OTHER, QUESTION = (OKABE_ITO[1], "▶"), (OKABE_ITO[4], "▷"), (OKABE_ITO[0], "?")


def haystack(example: NeedleExample, *, height: int = 260) -> Html:
    """Show the whole text in a scrollable box, below a bar that shows where everything is."""
    marked = [(example.needle, NEEDLE), *((one, OTHER) for one in example.distractors)]
    text, places = html.escape(example.text), []
    for sentence, look in marked:
        places.append((example.text.index(sentence) / len(example.text), look))
        text = text.replace(html.escape(sentence), chip(sentence, look), 1)
    asked = text.rindex(html.escape(example.question))
    text = f"{text[:asked]}{chip(example.question, QUESTION)}"
    places.append((0.995, QUESTION))
    words = haystack_summary(example)
    box = (
        f'<div style="height:{height}px;overflow-y:scroll;border:1px solid {QUIET};padding:8px;'
        f'font-size:13px;line-height:1.35;white-space:pre-wrap">{text}</div>'
    )
    body = (
        f'<div role="group" aria-label="{html.escape(words)}" style="max-width:900px">'
        f"{legend(example)}{strip(places)}{box}</div>"
    )
    return Html(body, words)


def haystack_summary(example: NeedleExample) -> str:
    """ "2,048 tokens; 51% of the text comes before the needle “…”; 3 other needles …" """
    others = len(example.distractors)
    more = f"; {others} more say the same about other names" if others else ""
    return (
        f"{example.length:,} tokens; {example.depth:.0%} of the text comes before the needle "
        f"“{example.needle}”{more}."
    )


def chip(text: str, look: tuple[str, str]) -> str:
    """Show words on the colour of their kind, after its sign."""
    colour, sign = look
    return (
        f'<b style="background:{colour};color:{readable_on(colour)};border-radius:3px;'
        f'padding:1px 4px">{sign} {html.escape(text)}</b>'
    )


def legend(example: NeedleExample) -> str:
    """Explain the colours and signs."""
    others = [("about other names", OTHER)] if example.distractors else []
    kinds = (("the needle", NEEDLE), *others, ("the question", QUESTION))
    named = " ".join(chip(name, look) for name, look in kinds)
    return f'<div style="font-size:13px;margin-bottom:6px">{named}</div>'


def strip(places: list[tuple[float, tuple[str, str]]]) -> str:
    """Show the text as a bar from beginning to end, with a tick per marked sentence."""
    ticks = "".join(
        f'<span style="position:absolute;left:{100 * place:.1f}%;top:0;width:5px;height:14px;'
        f'background:{colour}" title="{sign}"></span>'
        for place, (colour, sign) in places
    )
    return (
        '<div style="position:relative;height:14px;background:#EDEDED;margin:4px 0 6px;'
        f'overflow:hidden">{ticks}</div>'
    )
