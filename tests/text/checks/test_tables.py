"""The table checker computes every answer again."""

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mini_moe.text.checks.tables import answer_question, check_tables, read_table
from mini_moe.text.domains.tables import table_documents

DOCUMENTS = list(table_documents(11, 250_000))
TABLE = (
    "| ship | pier | crew |\n|---|---|---|\n"
    "| Orion | A | 12 |\n| Heron | B | 35 |\n| Aurora | A | 20 |"
)
ROWS = read_table(TABLE)
PAGE = f"Harbour\n\n{TABLE}\n\nQ: Which ship has the highest crew?\nA: Heron with 35"


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("What is the pier of Heron?", "B"),
        ("What is the crew of Orion?", "12"),
        ("Which ship has the highest crew?", "Heron with 35"),
        ("Which ship has the lowest crew?", "Orion with 12"),
        ("What is the total crew?", "12 + 35 + 20 = 67"),
        ("What is the total crew of the ships with pier A?", "12 + 20 = 32"),
        ("What is the total crew of the ships with pier B?", "35"),
        ("How many ships have a crew above 12?", "2 (Heron, Aurora)"),
        ("How many ships have a crew below 12?", "0"),
        ("Which ships have pier A?", "Orion, Aurora"),
        ("Which ships have pier C?", "none"),
        ("How much higher is the crew of Heron than that of Aurora?", "35 - 20 = 15"),
        ("List the ships from highest to lowest crew.", "Heron 35, Aurora 20, Orion 12"),
        ("List the ships from lowest to highest crew.", "Orion 12, Aurora 20, Heron 35"),
    ],
)
def test_questions_answered_by_hand(question, answer):
    assert answer_question(ROWS, question) == answer


@pytest.mark.parametrize(
    "question",
    [
        "Why?",
        "What is the mast of Orion?",
        "What is the crew of Titanic?",
        "Which ship has the highest pier?",
        "What is the total pier?",
    ],
)
def test_questions_that_the_table_cannot_answer_are_refused(question):
    with pytest.raises(ValueError):
        answer_question(ROWS, question)


def test_changed_answers_are_found():
    draw = random.Random(0)
    for document in DOCUMENTS:
        lines = document.text.split("\n")
        answers = [n for n, line in enumerate(lines) if re.match(r"A: .*\d", line)]
        if not answers:
            continue
        row = draw.choice(answers)
        place = draw.choice([match.start() for match in re.finditer(r"\d", lines[row])])
        digit = draw.choice([d for d in "0123456789" if d != lines[row][place]])
        lines[row] = lines[row][:place] + digit + lines[row][place + 1 :]
        with pytest.raises(ValueError, match="expected A: "):
            check_tables("\n".join(lines))


def test_it_counts_questions():
    assert check_tables(PAGE) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        PAGE.replace("with 35", "with 36"),
        PAGE.replace("Heron with", "Orion with"),
        PAGE.replace("| Heron | B | 35 |", "| Heron | B |"),
        PAGE.replace("A: Heron with 35", ""),
        PAGE + "\nQ: What is the total crew?",
        "Harbour",
        "",
    ],
)
def test_named_wrong_pages_are_refused(wrong):
    with pytest.raises(ValueError):
        check_tables(wrong)


@given(st.text(max_size=80))
def test_any_text_is_refused_without_a_crash(text):
    with pytest.raises(ValueError):
        check_tables(text)
    with pytest.raises(ValueError):
        check_tables(f"Harbour\n\n{TABLE}\n\nQ: {text}\nA: 1")
