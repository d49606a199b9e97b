"""Check a page of the `tables` domain: read the table and answer every question again."""

import re

from mini_moe.text.domains.document import Document

Rows = list[dict[str, str]]


def check_tables(document: Document | str) -> int:
    """Return how many questions a page has, after checking that all answers are correct.

    Raises:
        ValueError: no table, an unknown question, or a wrong answer; the question is quoted.
    """
    text = document if isinstance(document, str) else document.text
    try:
        _, table, asked = text.split("\n\n")
        rows = read_table(table)
    except (ValueError, IndexError):
        raise ValueError(f"document: expected a title, a table, questions; got\n{text}") from None
    lines = asked.split("\n")
    for question, answer in zip(lines[::2], lines[1::2], strict=True):
        expected = answer_question(rows, question.removeprefix("Q: "))
        if answer != f"A: {expected}":
            raise ValueError(f"document: {question}\nexpected A: {expected}\ngot {answer}")
    return len(lines) // 2


def read_table(text: str) -> Rows:
    """Read a Markdown or comma-separated table into rows, each mapping column name to cell.

    Raises:
        ValueError: rows of different lengths, or fewer than two lines.
    """
    lines = text.split("\n")
    if lines[0].startswith("|"):
        del lines[1]  # the separator below the header
        cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    else:
        cells = [line.split(",") for line in lines]
    if len(cells) < 2:
        raise ValueError(f"text: expected a header and at least one row, got {text!r}")
    return [dict(zip(cells[0], row, strict=True)) for row in cells[1:]]


def answer_question(rows: Rows, question: str) -> str:
    """Answer a question of one of the kinds that the domain asks.

    Raises:
        ValueError: the question is of an unknown kind, or names an unknown column.
    """
    key = next(iter(rows[0]))
    for pattern, answer in ANSWERS.items():
        if found := re.fullmatch(pattern, question):
            try:
                return answer(rows, key, *found.groups())
            except (KeyError, IndexError, StopIteration):
                break
    raise ValueError(f"question: expected one about columns {list(rows[0])}, got {question!r}")


def _cell(rows: Rows, key: str, name: str, column: str) -> str:
    return next(row[column] for row in rows if row[key] == name)


def _lookup(rows: Rows, key: str, column: str, name: str) -> str:
    return _cell(rows, key, name, column)


def _extreme(rows: Rows, key: str, word: str, column: str) -> str:
    ordered = sorted(rows, key=lambda row: int(row[column]), reverse=word == "highest")
    return f"{ordered[0][key]} with {ordered[0][column]}"


def _sum(rows: Rows, _: str, column: str) -> str:
    numbers = [row[column] for row in rows]
    total = sum(map(int, numbers))
    return f"{' + '.join(numbers)} = {total}" if len(numbers) > 1 else str(total)


def _group_sum(rows: Rows, key: str, column: str, category: str, word: str) -> str:
    return _sum([row for row in rows if row[category] == word], key, column)


def _count(rows: Rows, key: str, column: str, word: str, bound: str) -> str:
    sign = 1 if word == "above" else -1
    names = [row[key] for row in rows if sign * (int(row[column]) - int(bound)) > 0]
    return f"{len(names)} ({', '.join(names)})" if names else "0"


def _filter(rows: Rows, key: str, category: str, word: str) -> str:
    return ", ".join(row[key] for row in rows if row[category] == word) or "none"


def _difference(rows: Rows, key: str, column: str, large: str, small: str) -> str:
    first, second = _cell(rows, key, large, column), _cell(rows, key, small, column)
    return f"{first} - {second} = {int(first) - int(second)}"


def _order(rows: Rows, key: str, start: str, _: str, column: str) -> str:
    ordered = sorted(rows, key=lambda row: int(row[column]), reverse=start == "highest")
    return ", ".join(f"{row[key]} {row[column]}" for row in ordered)


ANSWERS = {
    r"What is the total ([\w ]+) of the \w+ with (\w+) (\w+)\?": _group_sum,
    r"What is the total ([\w ]+)\?": _sum,
    r"What is the ([\w ]+) of (\w+)\?": _lookup,
    r"Which \w+ has the (highest|lowest) ([\w ]+)\?": _extreme,
    r"How many \w+ have an? ([\w ]+) (above|below) (-?\d+)\?": _count,
    r"Which \w+ have (\w+) (\w+)\?": _filter,
    r"How much higher is the ([\w ]+) of (\w+) than that of (\w+)\?": _difference,
    r"List the \w+ from (highest|lowest) to (highest|lowest) ([\w ]+)\.": _order,
}
