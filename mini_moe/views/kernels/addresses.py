"""Which addresses a warp's lanes touch in one instruction: sectors or banks."""

from collections import defaultdict
from typing import NamedTuple

import plotly.graph_objects as go

from mini_moe.checker import LaneAccess, Run
from mini_moe.views.style import OKABE_ITO, new_figure

LINE, SECTOR, WORD, BANKS, WARP = 128, 32, 4, 32, 32
ASKED, MOVED, NOTHING, LATER = OKABE_ITO[0], "#F7D9A8", "#FFFFFF", OKABE_ITO[1]
MOST_ROWS = 32


class Instruction(NamedTuple):
    """One instruction of one warp: everything its lanes touched."""

    kernel: str
    place: str  # "transpose.cu:6"
    space: str
    access: str
    buffer: str
    time: int
    lanes: list[LaneAccess]

    @property
    def title(self) -> str:
        """ "line 6 reads tile"."""
        verb = {"read": "reads", "write": "writes"}.get(self.access, "updates")
        return f"line {self.place.rpartition(':')[2]} {verb} {self.buffer}"


def instructions(ran: Run) -> list[Instruction]:
    """List what the watched warp did, line by line; repeated lines in order of execution."""
    known = {(t.place, t.buffer): t for t in ran.traffic}
    together: dict[tuple, list[LaneAccess]] = defaultdict(list)
    for access in ran.trace:
        together[access.place, access.buffer, access.time, access.bytes].append(access)
    made = []
    for (place, buffer, time, _), lanes in together.items():
        traffic = known[place, buffer]
        made.append(
            Instruction(ran.kernel, place, traffic.space, traffic.access, buffer, time, lanes)
        )
    return sorted(made, key=lambda i: (int(i.place.rpartition(":")[2]), i.time))


def instruction(ran: Run, buffer: str, access: str = "", time: int = 0) -> Instruction:
    """Find the first instruction that touches the buffer; `access` is "read" or "write".

    Raises: ValueError if there is none; the message lists those that exist.
    """
    there = instructions(ran)
    for one in there:
        if one.buffer == buffer and access in ("", one.access) and one.time == time:
            return one
    names = ", ".join(dict.fromkeys(f"{i.access} of {i.buffer}" for i in there))
    raise ValueError(f"no {access or 'access'} of {buffer} at time={time}; found: {names}")


def sectors(lanes: list[LaneAccess]) -> set[int]:
    """Return the 32-byte sectors that are moved."""
    return {byte // SECTOR for a in lanes for byte in (a.offset, a.offset + a.bytes - 1)}


def turns(lanes: list[LaneAccess]) -> dict[int, int]:
    """Return the turn (from 1) in which shared memory serves each 4-byte word that lanes touch.

    A bank serves one word per turn, to all lanes that need it. Wide accesses are split into half
    warps (8 bytes per lane) or quarter warps (16).
    """
    widest = max(a.bytes for a in lanes)
    parts = 1 if widest <= 4 else 2 if widest <= 8 else 4
    served: dict[int, int] = {}
    before = 0
    for part in range(parts):
        queue: dict[int, list[int]] = defaultdict(list)
        for a in lanes:
            if a.lane * parts // WARP != part:
                continue
            for word in range(a.offset // WORD, (a.offset + a.bytes - 1) // WORD + 1):
                if word not in queue[word % BANKS]:
                    queue[word % BANKS].append(word)
        for words in queue.values():
            served |= {word: before + n for n, word in enumerate(words, start=1)}
        before += max((len(words) for words in queue.values()), default=0)
    return served


def touched(ran: Run, buffer: str, access: str = "", time: int = 0) -> go.Figure:
    """Draw a map of memory: one cell per element, with the number of the lane that touches it.

    Global memory: 128 bytes per row, four sectors each; pale cells are moved but not requested.
    Shared memory: one bank per column; cells that have to wait for another one are orange.
    Raises: ValueError if the watched warp made no such access.
    """
    return draw(instruction(ran, buffer, access, time))


def draw(one: Instruction) -> go.Figure:
    """Draw one instruction."""
    return _shared(one) if one.space == "shared" else _global(one)


def _cells(lanes: list[LaneAccess], size: int) -> dict[int, list[int]]:
    """Map each element to the lanes that touch it."""
    found: dict[int, list[int]] = defaultdict(list)
    for a in lanes:
        for element in range(a.offset // size, (a.offset + a.bytes - 1) // size + 1):
            found[element].append(a.lane)
    return found


def _names(lanes: list[int]) -> str:
    return str(lanes[0]) if len(lanes) == 1 else f"{min(lanes)}–{max(lanes)}" if lanes else ""


def _rows(elements: dict[int, list[int]], per_row: int) -> list[int]:
    return sorted({element // per_row for element in elements})[:MOST_ROWS]


def _global(one: Instruction) -> go.Figure:
    size = max(2, min(WORD, min(a.bytes for a in one.lanes)))
    cells, moved = _cells(one.lanes, size), sectors(one.lanes)
    per_row, rows = LINE // size, _rows(cells, LINE // size)
    colour = [
        [
            2 if row * per_row + c in cells else int((row * LINE + c * size) // SECTOR in moved)
            for c in range(per_row)
        ]
        for row in rows
    ]
    text = [[_names(cells.get(row * per_row + c, [])) for c in range(per_row)] for row in rows]
    asked = sum(a.bytes for a in one.lanes)
    needed = -(-asked // SECTOR)
    summary = (
        f"{one.kernel}, {one.title}: {len(one.lanes)} lanes request {asked} bytes; "
        f"{len(moved)} sectors of 32 bytes are moved, {needed} would suffice."
    )
    figure = _grid(summary, one.title, rows, text, colour, (NOTHING, MOVED, ASKED), per_row)
    for edge in range(4):
        figure.add_vline(x=edge * per_row / 4 - 0.5, line={"color": "#222222", "width": 1.5})
    figure.update_xaxes(
        title_text=f"position in the 128-byte line ({size} bytes each); four sectors"
    )
    figure.update_yaxes(ticktext=[f"byte {row * LINE}" for row in rows])
    return _legend(figure, [("requested by this lane", ASKED), ("moved as well", MOVED)])


def _shared(one: Instruction) -> go.Figure:
    cells, served = _cells(one.lanes, WORD), turns(one.lanes)
    rows = _rows(cells, BANKS)
    words = [[row * BANKS + bank for bank in range(BANKS)] for row in rows]
    colour = [[min(served.get(word, 0), 2) for word in line] for line in words]
    text = [[_names(cells.get(word, [])) for word in line] for line in words]
    most = max(served.values())
    best = 1 if max(a.bytes for a in one.lanes) <= 4 else 2 if one.lanes[0].bytes <= 8 else 4
    banks = len({word % BANKS for word in cells})
    summary = (
        f"{one.kernel}, {one.title}: {len(one.lanes)} lanes touch {len(cells)} words in {banks} "
        f"of 32 banks; {most} wavefront{'s' if most > 1 else ''}, {best} would suffice."
    )
    figure = _grid(summary, one.title, rows, text, colour, (NOTHING, ASKED, LATER), BANKS)
    figure.update_xaxes(title_text="bank")
    figure.update_yaxes(ticktext=[f"byte {row * LINE}" for row in rows])
    return _legend(figure, [("served first", ASKED), ("has to wait: bank is busy", LATER)])


def _grid(
    summary: str, title: str, rows: list[int], text: list[list[str]], colour: list[list[int]],
    colours: tuple[str, str, str], per_row: int,
) -> go.Figure:  # fmt: skip
    height = 130 + 19 * len(rows)
    figure = new_figure(summary, width=820, height=height, title_text=title)
    scale = [(n / 3 + edge / 3, c) for n, c in enumerate(colours) for edge in (0, 1)]
    figure.add_trace(go.Heatmap(
        z=colour, text=text, zmin=0, zmax=2, colorscale=scale, showscale=False, xgap=1, ygap=1,
        hoverinfo="skip", name="lane",
    ))  # fmt: skip
    for y, line in enumerate(text):
        for x, name in enumerate(line):
            if name:
                ink = "#FFFFFF" if colours[colour[y][x]] != LATER else "#000000"
                font = {"size": 9 if per_row <= 32 else 8, "color": ink}
                figure.add_annotation(x=x, y=y, text=name, showarrow=False, font=font)
    steps = list(range(0, per_row, per_row // 8))
    figure.update_xaxes(tickvals=steps, showgrid=False, range=[-0.5, per_row - 0.5])
    figure.update_yaxes(
        tickvals=list(range(len(rows))), showgrid=False, range=[len(rows) - 0.5, -0.5]
    )
    figure.update_layout(plot_bgcolor="#D9D9D9", margin={"t": 66, "b": 50, "r": 20})
    return figure


def _legend(figure: go.Figure, entries: list[tuple[str, str]]) -> go.Figure:
    for name, colour in entries:
        figure.add_scatter(
            x=[None], y=[None], mode="markers", name=name,
            marker={"color": colour, "symbol": "square", "size": 12, "line": {"width": 0.5}},
        )  # fmt: skip
    figure.update_layout(
        legend={"orientation": "h", "x": 1, "xanchor": "right", "y": 1.0, "yanchor": "bottom"}
    )
    return figure
