"""Score a launch line by line: what it moved, against what would have been enough."""

import html

from mini_moe.checker import Run, Traffic
from mini_moe.views.style import Html

HEAD = ("line", "memory", "access", "times", "bytes requested", "bytes moved", "wavefronts",
        "score")  # fmt: skip
WAVES = HEAD.index("wavefronts")


def score(*runs: Run) -> Html:
    """Show a table with one row per source line and buffer; a score of 100 % means no waste.

    `times` counts how often a warp executed it; without shared memory, wavefronts are left out.
    """
    rows = [_row(t) for ran in runs for t in sorted(ran.traffic, key=_order)]
    names = HEAD
    if not any(row[WAVES] for row in rows):
        names, *rows = [row[:WAVES] + row[WAVES + 1 :] for row in [HEAD, *rows]]
    text = "\n".join("  ".join(f"{c:>12}" for c in row) for row in [names, *rows])
    cells = "".join(
        "<tr>"
        + "".join(_cell("td", c, n, n == len(row) - 1 and c != "100%") for n, c in enumerate(row))
        + "</tr>"
        for row in rows
    )
    head = "".join(_cell("th", name, n, False) for n, name in enumerate(names))
    style = "border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums"
    return Html(f'<table style="{style}"><thead><tr>{head}</tr></thead>{cells}</table>', text)


def _order(traffic: Traffic) -> tuple:
    return int(traffic.place.rpartition(":")[2]), traffic.space, traffic.access, traffic.buffer


def _row(t: Traffic) -> tuple[str, ...]:
    where = t.place.replace(".cu:", ", line ") if t.place else ""
    if t.space == "shared":
        waves = f"{t.wavefronts:,} of {t.best_wavefronts:,} needed"
        share = t.best_wavefronts / t.wavefronts if t.wavefronts else 1
        return where, f"shared {t.buffer}", t.access, f"{t.executions:,}", f"{t.bytes:,}", "", \
            waves, f"{share:.0%}"  # fmt: skip
    share = min(1, t.best_sectors / t.sectors)  # lanes may share a sector
    return where, f"global {t.buffer}", t.access, f"{t.executions:,}", f"{t.bytes:,}", \
        f"{32 * t.sectors:,}", "", f"{share:.0%}"  # fmt: skip


def _cell(tag: str, text: str, column: int, bad: bool) -> str:
    align = "left" if column < 3 else "right"
    weight = "font-weight:700;color:#A03000;" if bad else ""
    return (
        f'<{tag} style="{weight}padding:2px 10px;text-align:{align};white-space:nowrap">'
        f"{html.escape(text)}</{tag}>"
    )
