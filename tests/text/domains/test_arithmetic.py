"""Arithmetic is worked out correctly, the way a person would."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mini_moe.text.checks import check_math
from mini_moe.text.domains.arithmetic import (
    KINDS,
    eval_formula,
    math_documents,
    word_problems,
    work_addition,
    work_division,
    work_long_multiplication,
    work_short_multiplication,
    work_subtraction,
)

NUMBERS = st.integers(0, 99_999)


def test_carries_are_written_out():
    assert work_addition([487, 356]) == (
        "Compute 487 + 356.\n"
        "ones: 7 + 6 = 13, write 3, carry 1\n"
        "tens: 8 + 5 + 1 = 14, write 4, carry 1\n"
        "hundreds: 4 + 3 + 1 = 8, write 8\n"
        "Answer: 843"
    )


def test_borrows_are_written_out():
    assert work_subtraction(503, 278) == (
        "Compute 503 - 278.\n"
        "ones: 3 - 8 is below 0, 13 - 8 = 5, write 5, borrow 1\n"
        "tens: 0 - 7 - 1 is below 0, 10 - 7 - 1 = 2, write 2, borrow 1\n"
        "hundreds: 5 - 2 - 1 = 2, write 2\n"
        "Answer: 225"
    )


def test_a_larger_second_number_gives_a_negative_answer():
    lines = work_subtraction(4, 19).split("\n")
    assert lines[1] == "19 is larger than 4, so swap: 19 - 4"
    assert lines[-1] == "Answer: -15"


def test_products_are_worked_out_in_columns_or_parts():
    assert work_short_multiplication(347, 6).split("\n")[1:] == [
        "ones: 7 * 6 = 42, write 2, carry 4",
        "tens: 4 * 6 + 4 = 28, write 8, carry 2",
        "hundreds: 3 * 6 + 2 = 20, write 20",
        "Answer: 2082",
    ]
    assert work_long_multiplication(34, 27).split("\n")[1:] == [
        "27 = 20 + 7", "34 * 7 = 238", "34 * 20 = 680", "238 + 680 = 918", "Answer: 918",
    ]  # fmt: skip


def test_division_brings_digits_down():
    assert work_division(940, 7).split("\n")[1:] == [
        "9 / 7 = 1 remainder 2",
        "bring down 4: 24 / 7 = 3 remainder 3",
        "bring down 0: 30 / 7 = 4 remainder 2",
        "Answer: 134 remainder 2",
    ]


@settings(deadline=None)
@given(st.lists(NUMBERS, min_size=2, max_size=4))
def test_any_addition_is_right(numbers):
    assert check_math(work_addition(numbers)) == 1
    assert work_addition(numbers).endswith(f"Answer: {sum(numbers)}")


@settings(deadline=None)
@given(NUMBERS, NUMBERS)
def test_any_subtraction_is_right(first, second):
    assert check_math(work_subtraction(first, second)) == 1
    assert work_subtraction(first, second).endswith(f"Answer: {first - second}")


@settings(deadline=None)
@given(NUMBERS, st.integers(2, 9), st.integers(10, 99))
def test_any_product_is_right(number, digit, factor):
    assert check_math(work_short_multiplication(number, digit)) == 1
    assert check_math(work_long_multiplication(number, factor)) == 1


@settings(deadline=None)
@given(NUMBERS, st.integers(1, 9))
def test_any_quotient_is_right(number, divisor):
    assert check_math(work_division(number, divisor)) == 1


@pytest.mark.parametrize("make", KINDS)
def test_every_kind_of_problem_is_right(make):
    problems = {make(random.Random(seed)) for seed in range(300)}
    assert len(problems) > 200
    assert all(check_math(problem) == 1 for problem in problems)


def test_thousands_of_drawn_problems_are_right():
    documents = list(math_documents(0, 600_000))
    assert sum(map(check_math, documents)) > 4000


def test_sheets_depend_on_the_seed_alone():
    one, again, other = (list(math_documents(seed, 20_000)) for seed in (1, 1, 2))
    assert one == again != other
    assert one == list(math_documents(1, 40_000))[: len(one)]


def test_sheets_rarely_repeat():
    texts = [document.text for document in math_documents(0, 600_000)]
    assert len(set(texts)) == len(texts)


def test_every_word_problem_has_its_numbers():
    for problem in word_problems()["problems"]:
        names = set(problem["numbers"]) | set(problem.get("derived", {}))
        fields = {"name1": "A", "name2": "B", "thing1": "c", "box1": "d"}
        assert problem["question"].format(**fields, **dict.fromkeys(names, 7))
        assert 1 <= len(problem["steps"]) <= 2


def test_a_quotient_must_be_whole():
    assert eval_formula("a / 2", {"a": 0}) == 0
    with pytest.raises(ValueError, match="7 / 2 is not whole"):
        eval_formula("a / 2", {"a": 7})
