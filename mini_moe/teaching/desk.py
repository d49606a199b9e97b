"""The notebooks' interface: check an answer, get a hint, see the solution, compare a guess."""

from collections import Counter
from typing import Any

from mini_moe.teaching import exercise as registry
from mini_moe.teaching.exercise import Exercise, find, source_text
from mini_moe.teaching.verdict import judge

_hints_given: Counter[str] = Counter()


class Check:
    """`check.name(answer)` prints one verdict and returns the answer the lesson goes on with.

    That is the student's answer if it is correct, else the package's own.
    """

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        exercise = find(name)

        def run(answer: Any = None) -> Any:
            return check_answer(exercise, answer)

        run.__name__ = name
        run.__doc__ = f"Check your answer to the exercise {name!r}. {heading(name)}"
        return run

    def __dir__(self) -> list[str]:
        registry.load_all()
        return sorted(registry.EXERCISES)

    def __repr__(self) -> str:
        return f"check, with the exercises {', '.join(dir(self))}"


check = Check()


def check_answer(exercise: Exercise, answer: Any) -> Any:
    """Print the verdict on an answer; return the answer if it is correct, else the package's."""
    verdict = judge(exercise, answer)
    goes_on = f"The lesson goes on with the package's {exercise.kind}"
    if verdict.state == "correct":
        print(f"✓ {exercise.name}: correct. The lesson goes on with your {exercise.kind}.")
        if exercise.choices:
            explain(exercise)
        return answer
    if verdict.state == "not attempted":
        stands = exercise.kind == "kernel" and verdict.reason
        left = f" ({verdict.reason})" if verdict.reason and not stands else ""
        print(f"○ {exercise.name}: not attempted{left} — {goes_on[0].lower()}{goes_on[1:]}.")
        if stands:
            print(f"  As it stands: {sentence(verdict.reason)}")
    elif verdict.state == "not checked":
        print(f"○ {exercise.name}: not checked. {sentence(verdict.reason)}")
        print(f"  {goes_on}.")
    else:
        print(f"✗ {exercise.name}: not yet. {sentence(verdict.reason)}")
        print(f'  {goes_on}; hint("{exercise.name}") helps.')
    return exercise.answer


def explain(exercise: Exercise) -> None:
    """Show why an answer is right: as Markdown in Jupyter, as text in a terminal."""
    from IPython.display import display

    display(solution(exercise.name))


def sentence(text: str) -> str:
    """Capitalize the first line and end it with punctuation; leave lines of code below as is."""
    text, newline, code = text.partition("\n")
    mark = "" if text.endswith((".", "?", "!", "…", ":")) else "."
    return f"{text[0].upper()}{text[1:]}{mark}{newline}{code}"


def hint(name: str) -> None:
    """Print an exercise's next hint; after the last one, say how to see the solution."""
    exercise = find(name)
    given = _hints_given[name]
    if given >= len(exercise.hints):
        print(f'That was the last hint. solution("{name}") shows the package\'s own.')
        return
    _hints_given[name] += 1
    print(f"Hint {given + 1} of {len(exercise.hints)}: {exercise.hints[given]}")


class Solution:
    """Source code, highlighted in Jupyter and printed in a terminal."""

    def __init__(self, where: str, text: str) -> None:
        self.where, self.text = where, text

    def __repr__(self) -> str:
        return f"# {self.where}\n{self.text}" if self.where else self.text

    def _repr_markdown_(self) -> str:
        if not self.where:
            return self.text
        return f"`{self.where}`\n```python\n{self.text}\n```"


def solution(name: str) -> Solution:
    """Return the package's own source for an exercise, or the explanation of its answer."""
    return Solution(*source_text(find(name)))


def heading(name: str) -> str:
    """Return the line shown above an exercise: difficulty, importance, minutes."""
    exercise = find(name)
    difficulty, importance = (
        "●" * level + "○" * (5 - level) for level in (exercise.difficulty, exercise.importance)
    )
    return f"Difficulty {difficulty} · importance {importance} · about {exercise.minutes} min"


def reveal(guess: Any, measured: int | float, what: str, unit: str = "") -> None:
    """Print what was measured and how far off the prediction was.

    The preceding cell sets `guess = None  # write a number`; None or `...` means no prediction.
    """
    shown = f"{_readable(measured)}{unit and ' ' + unit}"
    if guess is None or guess is ...:
        print(f"Measured: {shown} {what}.")
        print("You wrote down no prediction; the next one is yours.")
        return
    try:
        difference = float(guess) - measured
    except (TypeError, ValueError):
        print(f"Measured: {shown} {what}. Your prediction {guess!r} is not a number.")
        return
    if abs(difference) <= 0.05 * abs(measured):
        judgement = "well predicted" if difference else "exactly right"
    else:
        judgement = f"{_readable(abs(difference))} too {'high' if difference > 0 else 'low'}"
    print(f"Measured: {shown} {what}.")
    print(f"You predicted {_readable(guess)}: {judgement}.")


def _readable(value: Any) -> str:
    value = float(value)
    return f"{int(value):,}" if value == int(value) else f"{value:,.3g}"
