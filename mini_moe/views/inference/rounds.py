"""Speculative decoding, pass by pass: what was proposed, accepted, and added by the model."""

import html
from collections.abc import Sequence
from typing import Any, NamedTuple

from mini_moe.inference.speculative import Round, Speculation
from mini_moe.text import Tokenizer
from mini_moe.views.style import OKABE_ITO, QUIET, Html, readable_on, safe_callback


class Look(NamedTuple):
    """How one kind of token is drawn: colour, the sign below it, and its name."""

    colour: str
    sign: str
    name: str


PROMPT = Look("#FFFFFF", "", "prompt")
OWN = Look("#E6E6E6", "•", "written by the model")
OPEN = Look(OKABE_ITO[4], "?", "proposed")
KEPT = Look(OKABE_ITO[0], "✓", "proposed and accepted")
LOST = Look(OKABE_ITO[1], "✗", "proposed and rejected")


def coloured_rounds(
    told: Speculation, tokenizer: Tokenizer, *, before: Sequence[int] = (),
    first: int | None = None, step: int | None = None,
) -> Html:  # fmt: skip
    """Show the text with each token's outcome, and a thin line between passes.

    `before` is the prompt, `first` the token produced by reading it. Each pass is two steps:
    proposing, then verifying. `step` shows the text after that many steps, None all of it.
    Raises: ValueError for a step that does not exist.
    """
    last = 2 * len(told.rounds)
    step = last if step is None else step
    if not 0 <= step <= last:
        raise ValueError(f"step={step}: 0 to {last} expected")
    parts = [
        chips(before, PROMPT, tokenizer),
        chips(() if first is None else [first], OWN, tokenizer),
    ]
    for one in told.rounds[: step // 2]:
        parts.append(judged(one, tokenizer))
    if step % 2:
        parts.append(f"{BAR}{chips(told.rounds[step // 2].proposed, OPEN, tokenizer)}")
    text = rounds_summary(told, step)
    body = (
        f'<div role="group" aria-label="{html.escape(text)}" style="font-size:15px;'
        f'line-height:1.15;max-width:960px">{legend(step % 2 == 1)}{"".join(parts)}</div>'
    )
    return Html(body, text)


BAR = f'<span style="border-left:2px solid {QUIET};margin:0 4px;padding:3px 0"></span>'


def judged(one: Round, tokenizer: Tokenizer) -> str:
    """Show one pass: accepted proposals, rejected ones, the model's own token."""
    kept, lost = one.proposed[: one.accepted], one.proposed[one.accepted :]
    return (
        f"{BAR}{chips(kept, KEPT, tokenizer)}{chips(lost, LOST, tokenizer)}"
        f"{chips([one.added], OWN, tokenizer)}"
    )


def chips(ids: Sequence[int], look: Look, tokenizer: Tokenizer) -> str:
    """Show tokens on the colour of their kind, with its sign below."""
    return "".join(_chip(piece, look) for piece in tokenizer.pieces(ids))


def _chip(piece: str, look: Look) -> str:
    struck = "text-decoration:line-through;" if look is LOST else ""
    chip = (
        f'<span title="{look.name}" style="display:inline-block;text-align:center;margin:0 1px 5px '
        f'0"><span style="display:block;background:{look.colour};color:{readable_on(look.colour)};'
        f'{struck}border-radius:3px;padding:2px 3px;white-space:pre">{html.escape(piece)}</span>'
        f'<span style="font-size:11px">{look.sign or "&nbsp;"}</span></span>'
    )
    return chip + ("<br>" if "⏎" in piece and look is not LOST else "")


def legend(proposing: bool) -> str:
    """Explain the colours and signs."""
    looks = (PROMPT, OWN, KEPT, LOST, *((OPEN,) if proposing else ()))
    named = "".join(
        f'<span style="margin-right:14px"><span style="background:{look.colour};'
        f"color:{readable_on(look.colour)};border:1px solid {QUIET};border-radius:3px;"
        f'padding:0 4px">{look.sign or "&nbsp;"}</span> {look.name}</span>'
        for look in looks
    )
    return f'<div style="font-size:13px;margin-bottom:8px">{named}</div>'


def rounds_summary(told: Speculation, step: int) -> str:
    """ "After 4 of 20 passes: 7 tokens, 3 of 4 proposals accepted." """
    passes, total = step // 2, len(told.rounds)
    done = Speculation(told.rounds[:passes])
    proposed = sum(len(one.proposed) for one in done.rounds)
    accepted = sum(one.accepted for one in done.rounds)
    text = (
        f"After {passes} of {total} passes: {accepted + passes} tokens, {accepted} of {proposed} "
        "proposals accepted."
    )
    if step % 2:
        count = len(told.rounds[passes].proposed)
        text += f" Now {count} more {'is' if count == 1 else 'are'} proposed."
    elif passes == total and passes:
        text += f" {done.tokens_per_pass:.2f} tokens per pass."
    return text


class RoundStepper:
    """A slider that walks through the passes in both directions, starting at the end (`view`)."""

    def __init__(
        self, told: Speculation, tokenizer: Tokenizer, *, before: Sequence[int] = (),
        first: int | None = None, step: int | None = None,
    ) -> None:  # fmt: skip
        import ipywidgets as widgets

        self.told, self.tokenizer, self.before, self.first = told, tokenizer, before, first
        last = 2 * len(told.rounds)
        self.slider = widgets.IntSlider(
            value=last if step is None else step, min=0, max=last, description="Step",
            layout={"width": "420px"},
        )  # fmt: skip
        self.words, self.error, self.text = (widgets.HTML() for _ in range(3))
        redraw = safe_callback(self.error)(lambda change: self._draw())
        self.slider.observe(redraw, names="value")
        self.view = widgets.VBox([self.slider, self.error, self.words, self.text])
        self._draw()

    def still(self, step: int | None = None) -> Html:
        """Return the text after a step; by default after the last one."""
        return coloured_rounds(
            self.told, self.tokenizer, before=self.before, first=self.first, step=step
        )

    def _draw(self) -> None:
        shown = self.still(self.slider.value)
        self.text.value, self.words.value = shown.html, f"<b>{html.escape(shown.text)}</b>"

    def __repr__(self) -> str:
        return self.still(self.slider.value).text

    def _repr_mimebundle_(self, **named: Any) -> dict[str, Any]:
        """Return the widgets, with all passes for readers without them."""
        bundle = self.view._repr_mimebundle_(**named) or {}
        return bundle | {"text/html": self.still().html, "text/plain": repr(self)}
