"""Readings as tables: a patient next to its healthy twin, and folded tables of anything."""

import html
from collections.abc import Mapping, Sequence

from mini_moe.teaching.clinic.instruments import Row
from mini_moe.views.style import Html

CELL = 'style="text-align:left;padding:2px 14px 2px 0"'
NUMBER = 'style="text-align:right;padding:2px 14px 2px 0;font-variant-numeric:tabular-nums"'


class Report(Html):
    """Readings of one or more models side by side, with their expected values."""

    def __init__(self, columns: Mapping[str, Mapping[str, Sequence[Row]]]) -> None:
        """`columns`: heading → instrument → its rows; the rules are those of the first column."""
        first, *others = columns.values()
        self.head = ("instrument", "reading", *columns, "must be")
        self.rows = [
            (name, row.what, readable(row.value), *values, row.rule)
            for name in first
            for row, *values in zip(
                first[name], *([readable(r.value) for r in c[name]] for c in others), strict=True
            )
        ]
        super().__init__(self._table(), self._text())

    def _table(self) -> str:
        head = "".join(
            f'<th scope="col" {NUMBER if 2 <= n < len(self.head) - 1 else CELL}>{name}</th>'
            for n, name in enumerate(self.head)
        )
        lines = [self._line(row, first) for row, first in self._with_names()]
        return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"

    def _line(self, row: tuple[str, ...], first: bool) -> str:
        name, what, *values, rule = (html.escape(cell) for cell in row)
        numbers = "".join(f"<td {NUMBER}>{value}</td>" for value in values)
        name = f"<b>{name}</b>" if first else ""
        return (
            f"<tr><td {CELL}>{name}</td><td {CELL}>{what}</td>{numbers}<td {CELL}>{rule}</td></tr>"
        )

    def _with_names(self) -> list[tuple[tuple[str, ...], bool]]:
        """Return each row, and whether it is the first one of its instrument."""
        above = ["", *(row[0] for row in self.rows)]
        return [(row, row[0] != name) for row, name in zip(self.rows, above, strict=False)]

    def _text(self) -> str:
        cells = [self.head, *self.rows]
        widths = [max(len(row[column]) for row in cells) for column in range(len(self.head))]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in cells
        )


def readable(value: int | float) -> str:
    """Format with three significant digits; very small and very large numbers get an exponent."""
    if value == 0 or isinstance(value, int):
        return str(int(value))
    return f"{value:.2e}" if abs(value) < 1e-3 else f"{value:.3g}"


def folded_table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> Html:
    """Return a table that opens with a click on its title."""
    lines = [
        f"<tr>{''.join(f'<{tag} {CELL}>{html.escape(text)}</{tag}>' for text in row)}</tr>"
        for row, tag in ((head, "th"), *((row, "td") for row in rows))
    ]
    table = f"<table>{''.join(lines)}</table>"
    return Html(f"<details><summary>{html.escape(title)}</summary>{table}</details>", title)
