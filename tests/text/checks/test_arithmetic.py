"""The arithmetic checker finds every digit that was changed."""

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mini_moe.text.checks.arithmetic import check_math, evaluate
from mini_moe.text.domains.arithmetic import math_documents

DOCUMENTS = list(math_documents(11, 250_000))
RIGHT = "Compute 17 + 5.\nones: 7 + 5 = 12, write 2, carry 1\ntens: 1 + 1 = 2, write 2\nAnswer: 22"


def test_it_counts_problems():
    assert check_math(RIGHT) == 1
    assert check_math(RIGHT + "\n\n" + RIGHT) == 2


def test_changed_digits_are_found():
    """In a comparison, lower digits may change without making it wrong; nothing else may."""
    draw, unseen = random.Random(0), []
    for document in DOCUMENTS:
        place = draw.choice([match.start() for match in re.finditer(r"\d", document.text)])
        digit = draw.choice([d for d in "0123456789" if d != document.text[place]])
        changed = document.text[:place] + digit + document.text[place + 1 :]
        try:
            check_math(changed)
        except ValueError as error:
            assert "expected a right solution" in str(error)
        else:
            unseen.append(changed[: changed.find("\n", place)].split("\n")[-1])
    assert all(line.startswith("Which is larger") for line in unseen), unseen


def test_missing_lines_are_found():
    draw = random.Random(1)
    for document in DOCUMENTS[:400]:
        problem = document.text.split("\n\n")[0].split("\n")
        place = draw.randrange(len(problem))
        if problem[place].startswith("= ") and problem[place + 1].startswith("= "):
            continue  # leaving out a step of an expression makes one longer step, still correct
        del problem[place]
        with pytest.raises(ValueError):
            check_math("\n".join(problem))


@pytest.mark.parametrize(
    "wrong",
    [
        RIGHT.replace("Answer: 22", "Answer: 23"),
        RIGHT.replace("carry 1", "carry 2"),
        RIGHT.replace(", carry 1", ""),
        RIGHT.replace("tens: 1 + 1 = 2, write 2", "tens: 1, write 1"),
        RIGHT.replace("7 + 5 = 12", "5 + 7 = 12"),
        RIGHT.replace("ones", "tens"),
        RIGHT + "\n",
        RIGHT.removesuffix("\nAnswer: 22"),
        "Compute 8 / 3.\n8 / 3 = 2 remainder 2\nAnswer: 2",
        "Compute 8 / 0.\n8 / 0 = 0 remainder 0\nAnswer: 0",
        "Compute 2 ** 9.\n= 512\nAnswer: 512",
        "Compute __import__('os').\nAnswer: 0",
        "What is love?\nAnswer: 3",
        "Answer: 3",
        "",
    ],
)
def test_named_wrong_sheets_are_refused(wrong):
    with pytest.raises(ValueError, match="expected a right solution"):
        check_math(wrong)


@given(st.text(max_size=60))
def test_any_text_is_refused_without_a_crash(text):
    with pytest.raises(ValueError):
        check_math(text)
    with pytest.raises(ValueError):
        check_math(f"Compute {text}.\nAnswer: 1")


def test_order_of_operations():
    assert evaluate("2 + 3 * (4 - 1)") == 11
    assert evaluate("-(5)") == -5


@pytest.mark.parametrize("wrong", ["1 / 2", "2 ** 3", "x", "1.5", "f(2)", "'a' * 9", "True"])
def test_only_whole_number_sums_are_evaluated(wrong):
    with pytest.raises(ValueError, match="whole numbers"):
        evaluate(wrong)
