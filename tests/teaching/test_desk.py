"""The student's interface: verdicts, hints, solutions, predictions."""

import pytest
import torch

from mini_moe.model.layers import rms_norm
from mini_moe.teaching import check, hint, reveal, solution
from mini_moe.teaching.exercise import exercise, value_exercise


def calls_what_is_missing(x, weight, eps):
    y = x.float()
    return y.rsm_norm()


def gives_nothing_back(x, weight, eps):
    weight * x


def never_ends(x, weight, eps):
    return never_ends(x, weight, eps)


def test_an_exception_becomes_a_line_of_the_cell(capsys):
    assert check.rms_norm(calls_what_is_missing) is rms_norm
    line = calls_what_is_missing.__code__.co_firstlineno + 2
    assert f"line {line} of your cell, `return y.rsm_norm()`" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (gives_nothing_back, "is a `return` missing?"),
        (never_ends, "itself endlessly"),
        (lambda x: x, "raised TypeError"),
        (7, "A function is expected"),
        (lambda x, w, e: "text", "is 'text'; a tensor [1, 2] expected"),
        (lambda x, w, e: x * float("nan"), "is nan; 0.8485 expected"),
        (lambda x, w, e: x[0], "has shape [2]; [1, 2] expected"),
        (lambda x, w, e: rms_norm(x, w, e).double(), "has dtype torch.float64"),
    ],
)
def test_nonsense_is_described_not_raised(answer, words, capsys):
    assert check.rms_norm(answer) is rms_norm
    assert words in capsys.readouterr().out


def test_a_correct_answer_is_what_the_lesson_goes_on_with():
    def mine(x, weight, eps):
        return weight * x / (x.pow(2).mean(-1, keepdim=True) + eps) ** 0.5

    assert check.rms_norm(mine) is mine


@pytest.mark.parametrize(
    "body", ["...", "pass", "return None", "raise NotImplementedError()", "return ..."]
)
def test_a_stub_without_readable_source_is_not_attempted(body, capsys):
    scope = {}
    exec(f"def stub(x, weight, eps):\n    {body}", scope)
    check.rms_norm(scope["stub"])
    assert "not attempted" in capsys.readouterr().out


def test_dots_in_an_index_are_not_a_placeholder(capsys):
    def first_channels(x, weight, eps):
        part = x[..., :1]
        return part

    check.rms_norm(first_channels)
    assert "has shape" in capsys.readouterr().out


def test_a_remaining_placeholder_is_pointed_out(capsys):
    def half_done(x, weight, eps):
        square = x.pow(2)
        mean = ...
        return square / mean

    check.rms_norm(half_done)
    assert "line 3 of your function is still `mean = ...`" in capsys.readouterr().out


def test_a_function_that_changes_its_input_is_wrong(capsys):
    def spoils(x, weight, eps):
        result = rms_norm(x, weight, eps)
        x.zero_()
        return result

    check.rms_norm(spoils)
    assert "leave the input as it is" in capsys.readouterr().out


def test_unknown_names_list_what_exists():
    with pytest.raises(AttributeError, match=r"mean 'rms_norm'\? The exercises are: .*route"):
        _ = check.rmsnorm
    with pytest.raises(AttributeError, match="there is no exercise 'nothing'"):
        hint("nothing")
    assert "rms_norm" in dir(check)


def test_hints_come_one_by_one(capsys):
    exercise(len, name="measured", hints=("a", "b"), difficulty=1, importance=1, minutes=1)
    for _ in range(3):
        hint("measured")
    printed = capsys.readouterr().out.splitlines()
    assert printed[:2] == ["Hint 1 of 2: a", "Hint 2 of 2: b"]
    assert 'solution("measured")' in printed[2]


def test_the_solution_is_the_packages_source():
    shown = solution("rms_norm")
    assert "torch.rsqrt" in repr(shown)
    assert shown._repr_markdown_().startswith("`mini_moe/ops/reference.py, line ")
    assert "61 layers" in repr(solution("kv_bytes"))


def test_names_are_registered_once_and_fields_checked():
    fields = {"hints": ("a",), "difficulty": 1, "importance": 1, "minutes": 1}
    with pytest.raises(ValueError, match="registered twice"):
        exercise(rms_norm, **fields)
    with pytest.raises(ValueError, match="difficulty=6"):
        value_exercise("six", 6, explanation="6", **(fields | {"difficulty": 6}))


@pytest.mark.parametrize(
    ("value", "state"), [(torch.tensor(70_272), "✓"), (70_272.0, "✓"), (True, "✗"), ("70,272", "✗")]
)
def test_numbers_are_read_from_tensors_and_scalars(value, state, capsys):
    check.kv_bytes(value)
    assert capsys.readouterr().out.startswith(state)


@pytest.mark.parametrize(
    ("guess", "words"),
    [
        (None, "Measured: 13 experts.\nYou wrote down no prediction"),
        (..., "no prediction"),
        (10, "Measured: 13 experts.\nYou predicted 10: 3 too low."),
        (13, "exactly right"),
        (13.2, "well predicted"),
        ("many", "'many' is not a number"),
    ],
)
def test_a_prediction_is_compared_with_the_measurement(guess, words, capsys):
    reveal(guess, 13, "experts")
    assert words in capsys.readouterr().out
