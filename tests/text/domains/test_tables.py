"""Tables are well formed, and questions of every kind are answered correctly."""

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mini_moe.text.checks import check_tables
from mini_moe.text.checks.tables import answer_question, read_table
from mini_moe.text.domains.tables import (
    KINDS,
    Table,
    draw_table,
    table_documents,
    topics,
    write_csv,
    write_markdown,
    write_sum,
)

TABLE = Table(
    "School race",
    ("runner", "team", "score"),
    (("Anna", "red", 14), ("Ben", "blue", 9), ("Ida", "red", 31)),
    "runner",
    "runners",
)


def test_markdown_and_csv_say_the_same():
    assert write_csv(TABLE).split("\n")[:2] == ["runner,team,score", "Anna,red,14"]
    assert write_markdown(TABLE).split("\n")[1] == "|---|---|---|"
    assert read_table(write_csv(TABLE)) == read_table(write_markdown(TABLE))


def test_columns_are_of_one_kind():
    assert TABLE.of_kind(int) == ["score"] and TABLE.of_kind(str) == ["team"]
    assert TABLE.column("score") == [14, 9, 31]


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**9))
def test_any_table_reads_back_and_has_no_ties(seed):
    table = draw_table(random.Random(seed))
    for write in (write_csv, write_markdown):
        rows = read_table(write(table))
        assert [tuple(row) for row in rows] == [table.columns] * len(table.rows)
        assert [list(row.values()) for row in rows] == [[*map(str, row)] for row in table.rows]
    for column in table.of_kind(int):
        assert len(set(table.column(column))) == len(table.rows)
    assert 3 <= len(table.rows) <= 7


@pytest.mark.parametrize("ask", KINDS)
def test_every_kind_of_question_is_answered_correctly(ask):
    for seed in range(300):
        draw = random.Random(seed)
        table = draw_table(draw)
        question, answer = ask(draw, table)
        assert answer_question(read_table(write_csv(table)), question) == answer


def test_thousands_of_drawn_answers_are_right():
    documents = list(table_documents(0, 500_000))
    assert sum(map(check_tables, documents)) > 4000


def test_pages_ask_three_to_five_different_questions():
    for document in table_documents(3, 60_000):
        questions = re.findall(r"^Q: (.+)$", document.text, re.MULTILINE)
        assert 3 <= len(questions) == len(set(questions)) <= 5


def test_some_counts_and_filters_find_nothing():
    text = "\n".join(document.text for document in table_documents(0, 300_000))
    assert "\nA: 0\n" in text and "\nA: none\n" in text


def test_pages_depend_on_the_seed_alone():
    one, again, other = (list(table_documents(seed, 20_000)) for seed in (1, 1, 2))
    assert one == again != other


def test_topics_have_enough_rows_and_values():
    for topic in topics():
        assert len(set(topic["rows"])) == len(topic["rows"]) >= 7, topic["title"]
        assert len(topic["categories"]) >= 2 and len(topic["numbers"]) >= 2
        words = [*topic["rows"], *sum(topic["categories"].values(), [])]
        assert not [word for word in words if re.search(r"[,|\W]", word)], topic["title"]
        assert all(high - low >= 9 for low, high in topic["numbers"].values()), topic["title"]


def test_sums_of_one_number_are_that_number():
    assert write_sum([4]) == "4" and write_sum([4, 5]) == "4 + 5 = 9"
