"""Readings as a table: the patient beside its healthy twin, and what must be."""

import html
from collections.abc import Mapping, Sequence

from mini_moe.teaching.clinic.instruments import Row
from mini_moe.views.style import Html

CELL = 'style="text-align:left;padding:2px 14px 2px 0"'
NUMBER = 'style="text-align:right;padding:2px 14px 2px 0;font-variant-numeric:tabular-nums"'


class Report(Html):
    """The readings of one patient; `rows` holds them as (instrument, what, sick, healthy, rule)."""

    def __init__(
        self,
        letter: str,
        patient: Mapping[str, Sequence[Row]],
        healthy: Mapping[str, Sequence[Row]],
    ) -> None:
        self.rows = [
            (name, mine.what, readable(mine.value), readable(twin.value), mine.rule)
            for name in patient
            for mine, twin in zip(patient[name], healthy[name], strict=True)
        ]
        self.head = ("instrument", "reading", letter, "healthy twin", "must be")
        super().__init__(self._table(), self._text())

    def _table(self) -> str:
        head = "".join(
            f'<th scope="col" {NUMBER if n in (2, 3) else CELL}>{name}</th>'
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
        """Each row, and whether its instrument was not named in the row above."""
        above = ["", *(row[0] for row in self.rows)]
        return [(row, row[0] != name) for row, name in zip(self.rows, above, strict=False)]

    def _text(self) -> str:
        cells = [self.head, *self.rows]
        widths = [max(len(row[column]) for row in cells) for column in range(5)]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in cells
        )


def readable(value: int | float) -> str:
    """Three significant digits; very small and very large numbers with an exponent."""
    if value == 0 or isinstance(value, int):
        return str(int(value))
    return f"{value:.2e}" if abs(value) < 1e-3 else f"{value:.3g}"
