"""The `tables` domain: a small table, questions about it, and answers computed from it."""

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

from mini_moe.folders import data_folder
from mini_moe.text.domains.document import Document, fill, random_for
from mini_moe.text.domains.grammar import article


@dataclass(frozen=True)
class Table:
    """A table whose first column names the rows; every column is of one kind."""

    title: str
    columns: tuple[str, ...]  # the first one names the rows
    rows: tuple[tuple[str | int, ...], ...]
    key: str = "row"  # what a row is called in a question: "runner"
    keys: str = "rows"  # its plural

    def column(self, name: str) -> list[str | int]:
        """Return the values of one column, top to bottom."""
        place = self.columns.index(name)
        return [row[place] for row in self.rows]

    def of_kind(self, kind: type) -> list[str]:
        """Return the names of columns of numbers (int) or words (str), except the first column."""
        return [
            c
            for c, value in zip(self.columns[1:], self.rows[0][1:], strict=True)
            if type(value) is kind
        ]


def table_documents(seed: int, n_bytes: int) -> Iterator[Document]:
    """Yield tables of three to seven rows, each with three to five different questions."""

    def page(n: int) -> list[Document]:
        draw = random_for(seed, "tables", n)
        table = draw_table(draw)
        text = draw.choice((write_markdown, write_csv))(table)
        pairs: dict[str, str] = {}
        while len(pairs) < n % 3 + 3:
            pairs.update([draw.choices(list(KINDS), weights=list(KINDS.values()))[0](draw, table)])
        asked = "\n".join(f"Q: {question}\nA: {answer}" for question, answer in pairs.items())
        return [Document(f"tables/{n}", "tables", f"{table.title}\n\n{text}\n\n{asked}")]

    return fill(page, n_bytes)


@cache
def topics() -> list[dict]:
    """Load titles, row names, categories and number ranges (data/tables)."""
    return json.loads((data_folder() / "tables" / "topics.json").read_text("utf-8"))


def draw_table(draw: random.Random) -> Table:
    """Draw a topic, some of its rows, and one or two of its categories and number columns."""
    topic = draw.choice(topics())
    categories = draw.sample(sorted(topic["categories"]), draw.choice((1, 1, 2)))
    numbers = draw.sample(sorted(topic["numbers"]), draw.choice((1, 2, 2)))
    columns = draw.sample(categories + numbers, len(categories + numbers))
    n_rows = draw.randint(3, 7)
    values = {name: draw.choices(topic["categories"][name], k=n_rows) for name in categories}
    for name in numbers:  # no ties, so that highest and lowest are unique
        low, high = topic["numbers"][name]
        values[name] = draw.sample(range(low, high + 1), n_rows)
    names = draw.sample(topic["rows"], n_rows)
    rows = zip(names, *(values[name] for name in columns), strict=True)
    return Table(topic["title"], (topic["key"], *columns), tuple(rows), topic["key"], topic["keys"])


def write_markdown(table: Table) -> str:
    """Format as `| a | b |` lines with the separator that Markdown requires below the header."""
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in (table.columns, *table.rows)]
    return "\n".join([lines[0], "|" + "---|" * len(table.columns), *lines[1:]])


def write_csv(table: Table) -> str:
    """Format as `a,b` lines; no value contains a comma."""
    return "\n".join(",".join(map(str, row)) for row in (table.columns, *table.rows))


def ask_lookup(draw: random.Random, table: Table) -> tuple[str, str]:
    """Ask for one cell."""
    column, row = draw.choice(table.columns[1:]), draw.choice(table.rows)
    return f"What is the {column} of {row[0]}?", str(row[table.columns.index(column)])


def ask_extreme(draw: random.Random, table: Table) -> tuple[str, str]:
    """Ask for the row with the highest or lowest number, and that number."""
    column = draw.choice(table.of_kind(int))
    word, choose = draw.choice((("highest", max), ("lowest", min)))
    value = choose(table.column(column))
    name = table.rows[table.column(column).index(value)][0]
    return f"Which {table.key} has the {word} {column}?", f"{name} with {value}"


def ask_sum(draw: random.Random, table: Table) -> tuple[str, str]:
    """Ask for the sum of a column."""
    column = draw.choice(table.of_kind(int))
    return f"What is the total {column}?", write_sum(table.column(column))


def ask_group_sum(draw: random.Random, table: Table) -> tuple[str, str]:
    """Ask for the sum of a column over the rows of one category."""
    column, category = draw.choice(table.of_kind(int)), draw.choice(table.of_kind(str))
    word = draw.choice(table.column(category))
    pairs = zip(table.column(column), table.column(category), strict=True)
    chosen = [number for number, other in pairs if other == word]
    question = f"What is the total {column} of the {table.keys} with {category} {word}?"
    return question, write_sum(chosen)


def ask_count(draw: random.Random, table: Table) -> tuple[str, str]:
    """Ask how many rows are above or below a bound, and which."""
    column = draw.choice(table.of_kind(int))
    bound = draw.choice(table.column(column)) + draw.choice((-1, 0, 1))
    word = draw.choice(("above", "below"))
    pairs = zip(table.column(table.key), table.column(column), strict=True)
    chosen = [name for name, v in pairs if (v > bound if word == "above" else v < bound)]
    names = f" ({', '.join(chosen)})" if chosen else ""
    return (
        f"How many {table.keys} have {article(column)} {column} {word} {bound}?",
        f"{len(chosen)}{names}",
    )


def ask_filter(draw: random.Random, table: Table) -> tuple[str, str]:
    """Ask for the rows of one category, in table order."""
    category = draw.choice(table.of_kind(str))
    words = {word for topic in topics() for word in topic["categories"].get(category, ())}
    here = table.column(category)
    word = draw.choice(here if draw.random() < 0.8 else sorted(words))
    pairs = zip(table.column(table.key), here, strict=True)
    chosen = [name for name, other in pairs if other == word]
    return f"Which {table.keys} have {category} {word}?", ", ".join(chosen) or "none"


def ask_difference(draw: random.Random, table: Table) -> tuple[str, str]:
    """Ask by how much one row's number exceeds another's."""
    column = draw.choice(table.of_kind(int))
    place = table.columns.index(column)
    small, large = sorted(draw.sample(table.rows, 2), key=lambda row: row[place])
    question = f"How much higher is the {column} of {large[0]} than that of {small[0]}?"
    return question, f"{large[place]} - {small[place]} = {large[place] - small[place]}"


def ask_order(draw: random.Random, table: Table) -> tuple[str, str]:
    """Ask for the rows sorted by a number."""
    column = draw.choice(table.of_kind(int))
    place = table.columns.index(column)
    down = draw.random() < 0.5
    ordered = sorted(table.rows, key=lambda row: row[place], reverse=down)
    way = "from highest to lowest" if down else "from lowest to highest"
    question = f"List the {table.keys} {way} {column}."
    return question, ", ".join(f"{row[0]} {row[place]}" for row in ordered)


def write_sum(numbers: list[int]) -> str:
    """Write `3 + 9 = 12`, or just the number if there is only one."""
    terms = " + ".join(map(str, numbers))
    return f"{terms} = {sum(numbers)}" if len(numbers) > 1 else terms


KINDS: dict[Callable[[random.Random, Table], tuple[str, str]], int] = {
    ask_lookup: 4,
    ask_extreme: 4,
    ask_sum: 2,
    ask_group_sum: 2,
    ask_count: 3,
    ask_filter: 3,
    ask_difference: 2,
    ask_order: 2,
}  # kind of question: how often it is drawn
