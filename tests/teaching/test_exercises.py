"""Every exercise accepts the package's answer, recognizes a stub and rejects wrong answers.

Wrong answers are in tests/teaching/wrong_answers/, one file per notebook, as
`WRONG = {"exercise": {"what is wrong with it": (answer, "words of the verdict")}}`.
"""

import importlib
from pathlib import Path

import pytest

from mini_moe.checker import why_not
from mini_moe.teaching import check, heading, solution
from mini_moe.teaching.exercise import EXERCISES, load_all

load_all()
FILES = sorted(Path(__file__).with_name("wrong_answers").glob("*.py"))
TABLES = [importlib.import_module(f"tests.teaching.wrong_answers.{f.stem}").WRONG for f in FILES]
WRONG = {name: answers for table in TABLES for name, answers in table.items()}
CASES = [
    pytest.param(name, answer, words, id=f"{name}: {claim}")
    for name, answers in WRONG.items()
    for claim, (answer, words) in answers.items()
]
EVERY = pytest.mark.parametrize("name", sorted(EXERCISES))


@pytest.fixture(autouse=True)
def compiler(request):
    """Skip kernel exercises if there is no compiler."""
    name = request.node.callspec.params.get("name") if hasattr(request.node, "callspec") else None
    if name and EXERCISES[name].kind == "kernel" and why_not():
        pytest.skip(why_not())


def only_docstring(*given):
    """To be written."""


def dots(*given):
    """To be written."""
    ...


def passes(*given):
    pass


def gives_none(*given):
    return None


def gives_dots(*given):
    gates = ...
    return gates


def not_implemented(*given):
    raise NotImplementedError("write me")


def half_a_stub(*given):
    first = given[0]
    total = ...
    return first, total


STUBS = [only_docstring, dots, passes, gives_none, gives_dots, not_implemented, half_a_stub]


@EVERY
def test_the_packages_own_answer_is_accepted(name, capsys):
    own = EXERCISES[name].answer
    assert getattr(check, name)(own) is own
    assert capsys.readouterr().out.startswith(f"✓ {name}: correct")


@EVERY
def test_an_untouched_stub_is_not_attempted(name, capsys):
    exercise = EXERCISES[name]
    stubs = STUBS if exercise.is_function else [exercise.given] if exercise.given else []
    for stub in [None, ..., *stubs]:
        assert getattr(check, name)(stub) is exercise.answer
        assert capsys.readouterr().out.startswith(f"○ {name}: not attempted"), stub


@EVERY
def test_three_wrong_answers_are_named(name):
    assert len(WRONG.get(name, {})) >= 3, f"add wrong answers to {name} in wrong_answers/"


@EVERY
def test_the_exercise_can_be_shown(name):
    assert EXERCISES[name].probes or not EXERCISES[name].is_function
    assert len(repr(solution(name))) > 20
    assert " min" in heading(name)


@pytest.mark.parametrize(("name", "answer", "words"), CASES)
def test_a_wrong_answer_is_rejected_for_its_fault(name, answer, words, capsys):
    assert getattr(check, name)(answer) is EXERCISES[name].answer
    verdict = capsys.readouterr().out
    assert verdict.startswith(f"✗ {name}: not yet. ")
    assert words.lower() in verdict.lower()


def test_wrong_answers_belong_to_exercises():
    assert set(WRONG) <= set(EXERCISES)
