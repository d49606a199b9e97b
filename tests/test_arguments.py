"""Numbers of Python, numpy and torch are accepted; anything else is refused by name."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from mini_moe.arguments import flag, is_whole, items, number, whole

WHOLE = [
    3,
    np.int64(3),
    np.uint8(3),
    np.array(3),
    torch.tensor(3),
    torch.tensor(3, dtype=torch.uint8),
]
NOT_WHOLE = [
    True, np.True_, torch.tensor(True), 3.0, np.float32(3), torch.tensor(3.0), "3", b"3", None,
    math.nan, [3], np.array([3]), torch.tensor([3]), 3j, Fraction(3),
]  # fmt: skip


@pytest.mark.parametrize("value", WHOLE, ids=repr)
def test_integers_of_any_library_are_plain_ints(value):
    assert is_whole(value) and type(whole("n", value, 1, 3)) is int and whole("n", value) == 3


@pytest.mark.parametrize("value", NOT_WHOLE, ids=repr)
def test_non_integers_are_refused_by_name(value):
    assert not is_whole(value)
    with pytest.raises(ValueError, match=r"^rows=.* must be an integer of at least 1$"):
        whole("rows", value, 1)


@pytest.mark.parametrize(
    ("bounds", "said"),
    [
        ((4,), "n=3 must be an integer of at least 4"),
        ((0, 2), r"n=3 must be an integer in \[0, 2\]"),
    ],
)
def test_integers_out_of_bounds_are_refused(bounds, said):
    with pytest.raises(ValueError, match=said):
        whole("n", 3, *bounds)


@pytest.mark.parametrize(
    "value", [2, 2.0, np.float32(2), np.int64(2), torch.tensor(2.0), Fraction(2)]
)
def test_numbers_of_any_library_are_plain_floats(value):
    assert type(number("x", value)) is float and number("x", value, above=0, most=2) == 2


@pytest.mark.parametrize(
    "value",
    [True, np.True_, torch.tensor(True), "2", None, math.nan, -math.inf, np.float64("nan"), 10**400]
    + [[2.0], np.array([2.0]), torch.tensor([2.0]), 2j],
    ids=repr,
)
def test_non_finite_numbers_are_refused_by_name(value):
    with pytest.raises(ValueError, match=r"^x=.* must be a finite number of at least 0$"):
        number("x", value, least=0)


@pytest.mark.parametrize(
    ("bounds", "said"),
    [
        ({"above": 2}, "x=2 must be a finite number above 2"),
        ({"above": 0, "most": 1}, r"in \(0, 1\]"),
        ({"least": 0, "most": 1.5}, r"in \[0, 1.5\]"),
    ],
)
def test_numbers_out_of_bounds_are_refused(bounds, said):
    with pytest.raises(ValueError, match=said):
        number("x", 2, **bounds)


def test_only_true_and_false_are_flags():
    assert flag("on", True) is True and flag("on", np.False_) is False
    for value in (1, 0, "no", None, torch.tensor(True)):
        with pytest.raises(ValueError, match="on=.* must be True or False"):
            flag("on", value)


def test_items_are_those_of_lists_arrays_and_iterators_in_plain_types():
    for value in (
        [1, 2],
        (1, 2),
        np.array([1, 2]),
        torch.tensor([1, 2]),
        iter([1, 2]),
        range(1, 3),
    ):
        found = items("n", value, "integers", ordered=True)
        assert found == [1, 2] and all(type(one) is int for one in found)
    assert items("n", {1}, "integers") == [1]


@pytest.mark.parametrize("value", ["12", b"12", 1, None, {1: 2}, torch.tensor(1), {1, 2}], ids=repr)
def test_what_holds_no_items_in_order_is_refused(value):
    with pytest.raises(ValueError, match="n=.* must be integers"):
        items("n", value, "integers", ordered=True)
