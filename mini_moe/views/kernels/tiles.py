"""A shared-memory tile by banks, and a matrix by the lanes that hold it."""

from collections.abc import Sequence

import plotly.graph_objects as go
from jaxtyping import Int
from plotly.subplots import make_subplots
from torch import Tensor

from mini_moe.views.style import new_figure, readable_on

SMALL = 8  # banks and lanes in the picture, instead of 32
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999")


def bank_tiles(column: int = 2, *, swizzle: bool = True) -> go.Figure:
    """Draw one tile in several layouts, with 8 banks: which banks the framed column uses.

    Layouts: rows of 8; rows of 9; with `swizzle` also rows of 8 with columns `column ^ row`.
    """
    ways = {
        "rows of 8": lambda r, c: (SMALL * r + c) % SMALL,
        "rows of 9": lambda r, c: ((SMALL + 1) * r + c) % SMALL,
    }
    if swizzle:
        ways["rows of 8, column ^ row"] = lambda r, c: (SMALL * r + (c ^ r)) % SMALL
    banks = {name: [len({way(r, column) for r in range(SMALL)})] for name, way in ways.items()}
    titles = [
        f"{name}<br>a column: {SMALL // n} turn{'s' if n < SMALL else ''}"
        for name, (n,) in banks.items()
    ]
    figure = make_subplots(1, len(ways), subplot_titles=titles, horizontal_spacing=0.05)
    told = "; ".join(f"{name}: {n} of 8 banks" for name, (n,) in banks.items())
    base = new_figure(f"Banks used by column {column} of a tile: {told}.",
                      width=60 + 253 * len(ways), height=350)  # fmt: skip
    figure.update_layout(base.layout)
    for n, way in enumerate(ways.values(), start=1):
        bank = [[way(r, c) for c in range(SMALL)] for r in range(SMALL)]
        figure.add_trace(_coloured(bank, bank, COLOURS, "bank"), row=1, col=n)
        _write(figure, bank, bank, COLOURS, n)
        figure.add_shape(
            type="rect", x0=column - 0.5, x1=column + 0.5, y0=-0.5, y1=SMALL - 0.5,
            line={"color": "#000000", "width": 4}, row=1, col=n,
        )  # fmt: skip
    figure.update_xaxes(title_text="column", dtick=1, showgrid=False)
    figure.update_yaxes(autorange="reversed", dtick=1, showgrid=False)
    figure.update_yaxes(title_text="row", col=1)
    figure.update_layout(margin={"t": 64, "b": 50, "l": 50, "r": 10})
    return figure


def fragment_picture(
    lanes: Int[Tensor, "rows columns"], registers: Int[Tensor, "rows columns"], title: str = "",
    frame: Sequence[int] | None = None,
) -> go.Figure:  # fmt: skip
    """Draw which lane (number) and which register (colour) holds each element of a matrix.

    `frame` is the (row, column) to frame.
    """
    rows, columns = lanes.shape
    names = sorted(set(registers.flatten().tolist()))
    summary = (
        f"{title or 'A matrix'}, {rows} × {columns}, is spread over "
        f"{len(set(lanes.flatten().tolist()))} lanes, {len(names)} elements each; row 0 in lanes "
        f"{', '.join(map(str, dict.fromkeys(lanes[0].tolist())))}."
    )
    width, height = 150 + 34 * columns, 130 + 23 * rows
    figure = new_figure(summary, width=width, height=height, title_text=title)
    figure.add_trace(_coloured(registers.tolist(), lanes.tolist(), COLOURS, "lane"))
    _write(figure, registers.tolist(), lanes.tolist(), COLOURS, None)
    if frame is not None:
        row, column = frame
        figure.add_shape(
            type="rect", x0=column - 0.5, x1=column + 0.5, y0=row - 0.5, y1=row + 0.5,
            line={"color": "#000000", "width": 4},
        )  # fmt: skip
    for n in names:
        figure.add_scatter(
            x=[None], y=[None], mode="markers", name=f"[{n}]",
            marker={"color": COLOURS[n], "symbol": "square", "size": 12},
        )  # fmt: skip
    figure.update_xaxes(title_text="column", dtick=1 if columns <= 8 else 2, showgrid=False,
                        range=[-0.5, columns - 0.5])  # fmt: skip
    figure.update_yaxes(title_text="row", dtick=1, showgrid=False, range=[rows - 0.5, -0.5])
    figure.update_layout(margin_r=90, legend={"title": {"text": "register"}})
    return figure


def _coloured(
    kinds: list[list[int]], text: list[list[int]], colours: Sequence[str], name: str
) -> go.Heatmap:
    scale = [(n / 8 + e / 8, c) for n, c in enumerate(colours) for e in (0, 1)]
    return go.Heatmap(
        z=kinds, zmin=0, zmax=7, colorscale=scale, showscale=False, xgap=1, ygap=1, name=name,
        text=[[str(value) for value in line] for line in text], hoverinfo="skip",
    )  # fmt: skip


def _write(
    figure: go.Figure, kinds: list[list[int]], text: list[list[int]], colours: Sequence[str],
    panel: int | None,
) -> None:  # fmt: skip
    where = {} if panel is None else {"row": 1, "col": panel}
    for y, line in enumerate(text):
        for x, value in enumerate(line):
            ink = readable_on(colours[kinds[y][x]])
            figure.add_annotation(
                x=x, y=y, text=str(value), showarrow=False, font={"size": 12, "color": ink}, **where
            )
