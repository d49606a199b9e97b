"""A warp's instructions, one after another, with the source line of each."""

import html

import ipywidgets as widgets

from mini_moe.checker import Run
from mini_moe.views.kernels.addresses import (
    BANKS,
    LINE,
    SECTOR,
    WORD,
    Instruction,
    instructions,
    sectors,
    turns,
)
from mini_moe.views.style import Html, safe_callback

COLOURS = {"asked": ("#0072B2", "#FFFFFF"), "later": ("#D55E00", "#000000"),
           "moved": ("#F7D9A8", "#000000")}  # fmt: skip


class WarpStepper(widgets.VBox):
    """A slider over one warp's instructions: the source, and below it the memory touched."""

    def __init__(self, ran: Run, source: str) -> None:
        self.ran, self.source = ran, source.strip("\n")
        self.steps = instructions(ran)
        self.slider = widgets.IntSlider(
            min=1, max=len(self.steps), description="instruction",
            layout=widgets.Layout(width="520px"),
        )  # fmt: skip
        self.view, self.errors = widgets.HTML(), widgets.HTML()
        self.slider.observe(safe_callback(self.errors)(self._draw), names="value")
        self._draw()
        super().__init__([self.slider, self.view, self.errors])

    def _draw(self, _change: object = None) -> None:
        self.view.value = step_warp(self.steps, self.slider.value, self.source).html


def step_warp(steps: list[Instruction], number: int, source: str) -> Html:
    """Show a warp's instruction `number` (from 1): the source with its line marked, and the memory.

    Raises: ValueError for a number that does not exist.
    """
    if not 1 <= number <= len(steps):
        raise ValueError(f"number={number}: 1 to {len(steps)} expected")
    one = steps[number - 1]
    line = int(one.place.rpartition(":")[2])
    text = f"{number} of {len(steps)}: {one.title}, time={one.time}. {cost(one)}"
    body = (
        f'<div style="margin:4px 0"><b>{html.escape(text)}</b></div>'
        f"{_source(source, line)}{_memory(one)}"
    )
    return Html(body, text)


def cost(one: Instruction) -> str:
    """ "32 lanes request 128 bytes: 4 sectors moved." """
    asked = sum(a.bytes for a in one.lanes)
    told = f"{len(one.lanes)} lanes request {asked} bytes: "
    if one.space == "shared":
        most = max(turns(one.lanes).values())
        return told + f"{most} wavefront{'s' if most > 1 else ''}."
    moved = len(sectors(one.lanes))
    return told + f"{moved} sector{'s' if moved > 1 else ''} moved."


def _source(source: str, marked: int) -> str:
    lines = []
    for n, line in enumerate(source.splitlines(), start=1):
        style = "background:#FFF0D6;font-weight:700;color:#000" if n == marked else ""
        arrow = "→" if n == marked else " "
        lines.append(f'<div style="{style}">{arrow}{n:2} {html.escape(line)}</div>')
    return (
        '<pre style="font-size:12px;line-height:1.35;margin:0 0 8px;white-space:pre">'
        f"{''.join(lines)}</pre>"
    )


def _memory(one: Instruction) -> str:
    size = WORD if one.space == "shared" else max(2, min(WORD, min(a.bytes for a in one.lanes)))
    lanes = {e: a.lane for a in reversed(one.lanes)
             for e in range(a.offset // size, (a.offset + a.bytes - 1) // size + 1)}  # fmt: skip
    per_row = LINE // size
    served = turns(one.lanes) if one.space == "shared" else {}
    moved = sectors(one.lanes) if one.space == "global" else set()
    rows = []
    for row in sorted({element // per_row for element in lanes})[:BANKS]:
        cells = ""
        for c in range(per_row):
            element = row * per_row + c
            kind = "asked" if element in lanes else ""
            kind = "later" if kind and served.get(element, 1) > 1 else kind
            kind = kind or ("moved" if (row * LINE + c * size) // SECTOR in moved else "")
            back, ink = COLOURS.get(kind, ("#FFFFFF", "#000000"))
            edge = "2px solid #222" if c * size % SECTOR == 0 and moved else "1px solid #DDD"
            style = f"background:{back};color:{ink};border:1px solid #DDD;border-left:{edge};"
            name = lanes.get(element, "")
            cells += f'<td style="{style}min-width:17px;padding:0;text-align:center">{name}</td>'
        label = f'<td style="padding-right:6px;white-space:nowrap">byte {row * LINE}</td>'
        rows.append(f"<tr>{label}{cells}</tr>")
    return (
        '<table style="border-collapse:collapse;font-size:10px;line-height:1.2;'
        f'font-variant-numeric:tabular-nums">{"".join(rows)}</table>'
    )
