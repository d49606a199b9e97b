"""Define exercises and register them.

To add one, write this in the file of its notebook (`part1_build/router.py`, ...):

    gate_weights = exercise(
        router.gate_weights,  # the package's own, which `solution` shows
        difficulty=2, importance=5, minutes=5,
        hints=("Divide by the sum first.", "`keepdim=True` keeps the shapes compatible."),
    )
    gate_weights.agrees("two tokens", lambda: (torch.tensor([[0.2, 0.6]]), config()))

    @gate_weights.probe("the gates of a token sum to route_scale")
    def _(student):
        total = student(torch.tensor([[0.2, 0.6]]), config()).sum().item()
        if abs(total - 2.5) > 1e-4:
            raise Mistake(f"your gates sum to {total:.3g}; they must sum to route_scale=2.5")

Probes run in the order they are written; the first failure is reported. Also add at least three
wrong answers to tests/teaching/wrong_answers/, or the tests fail.
"""

import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from mini_moe.teaching.compare import Mistake, must_match

__all__ = ["EXERCISES", "Exercise", "Mistake", "choice_exercise", "exercise", "find"]
__all__ += ["kernel_exercise", "must_match", "value_exercise"]

EXERCISES: dict[str, "Exercise"] = {}


@dataclass(kw_only=True)
class Exercise:
    """One task: the package's own answer, the probes to check it, and hints on the way."""

    name: str
    answer: Any  # the package's function, a number, or one of `choices`
    source: Any  # what `solution` shows: an object with source code, or an explanation
    hints: tuple[str, ...]
    difficulty: int  # 1 to 5
    importance: int  # 1 to 5
    minutes: int
    tolerance: int | float = 0.0  # how far off a number may be
    choices: tuple[str, ...] = ()  # names to choose the answer from
    given: str = ""  # for a kernel: the CUDA source that the lesson starts from
    probes: list[tuple[str, Callable[[Any], None]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in ("difficulty", "importance"):
            if not 1 <= getattr(self, name) <= 5:
                raise ValueError(f"{self.name}: {name}={getattr(self, name)}, 1 to 5 expected")
        if self.minutes < 1 or not self.hints:
            raise ValueError(f"{self.name}: at least one minute and one hint expected")

    @property
    def is_function(self) -> bool:
        """True if the student writes a function, False for a number, a name or a kernel."""
        return callable(self.answer)

    @property
    def kind(self) -> str:
        """The kind of answer: "function", "kernel", "choice" or "value"."""
        if self.is_function or self.given:
            return "function" if self.is_function else "kernel"
        return "choice" if self.choices else "value"

    def judge(self, answer: Any) -> None:
        """Run every probe; a number or a choice must also be correct.

        Raises: Mistake from the first probe that fails.
        """
        for description, probe in self.probes:
            try:
                probe(answer)
            except Mistake as mistake:
                raise Mistake(
                    f"{description}: {mistake}" if description else str(mistake)
                ) from None
        if self.choices:
            if answer != self.answer:
                raise Mistake(f"it is not {answer!r}")
        elif self.kind == "value" and not abs(answer - self.answer) <= self.tolerance:
            raise Mistake(f"{answer:,} is too {'low' if answer < self.answer else 'high'}")

    def probe(self, description: str = "") -> Callable:
        """Register a function that takes the student's answer and may raise `Mistake`."""

        def register(run: Callable[[Any], None]) -> Callable[[Any], None]:
            self.probes.append((description, run))
            return run

        return register

    def agrees(
        self, description: str, arguments: Callable[[], tuple], what: str = "your result"
    ) -> None:
        """Probe that the student's function matches the package's and leaves its input unchanged.

        `arguments` must return fresh arguments at each call.
        """

        def run(student: Callable) -> None:
            given = arguments()
            got = student(*given)
            for before, after in zip(arguments(), given, strict=True):
                if isinstance(before, Tensor) and not before.equal(after):
                    raise Mistake("your function changes its argument; leave the input as it is")
            must_match(got, self.answer(*arguments()), what)

        self.probes.append((description, run))


def exercise(answer: Callable, *, name: str = "", source: Any = None, **fields: Any) -> Exercise:
    """Register a function to write; it has the same signature as the package's function.

    `source` is what `solution` shows, if not the answer itself.
    """
    return _register(
        Exercise(name=name or answer.__name__, answer=answer, source=source or answer, **fields)
    )


def value_exercise(
    name: str, answer: int | float, *, explanation: str, tolerance: int | float = 0.0, **fields: Any
) -> Exercise:
    """Register a number to find; `tolerance` is how far off it may be.

    Probes run before this comparison, so that they can name a typical error.
    """
    return _register(
        Exercise(name=name, answer=answer, source=explanation, tolerance=tolerance, **fields)
    )


def choice_exercise(
    name: str, answer: str, choices: tuple[str, ...], *, explanation: str, **fields: Any
) -> Exercise:
    """Register a name to choose from `choices`; a correct answer shows the explanation.

    Probes run before this comparison, so that they can say why a choice is wrong.
    Raises: ValueError if the answer is not one of the choices.
    """
    if answer not in choices:
        raise ValueError(f"{name}: answer={answer!r} is not one of choices={choices}")
    return _register(
        Exercise(name=name, answer=answer, source=explanation, choices=choices, **fields)
    )


def kernel_exercise(
    name: str, answer: str, given: str, *, where: str = "", **fields: Any
) -> Exercise:
    """Register CUDA source to write or fix; the lesson's cell contains `given`.

    `where` says what it corresponds to in kernels/.
    """
    source = f"```cpp\n{answer.strip()}\n```" + (f"\n{where}" if where else "")
    return _register(Exercise(name=name, answer=answer, source=source, given=given, **fields))


def _register(made: Exercise) -> Exercise:
    if made.name in EXERCISES:
        raise ValueError(f"name={made.name!r} is registered twice")
    EXERCISES[made.name] = made
    return made


def find(name: str) -> Exercise:
    """Return the exercise of that name.

    Raises: AttributeError listing the existing names.
    """
    load_all()
    if name not in EXERCISES:
        close = difflib.get_close_matches(name, EXERCISES, n=1)
        guess = f" Did you mean {close[0]!r}?" if close else ""
        names = ", ".join(sorted(EXERCISES))
        raise AttributeError(f"there is no exercise {name!r}.{guess} The exercises are: {names}")
    return EXERCISES[name]


def load_all() -> None:
    """Import every file below this folder, so that its exercises are registered."""
    package = importlib.import_module("mini_moe.teaching")
    for module in pkgutil.walk_packages(package.__path__, "mini_moe.teaching."):
        importlib.import_module(module.name)


def source_text(exercise: Exercise) -> tuple[str, str]:
    """Return the answer's location ("mini_moe/model/layers.py, line 50") and its source text."""
    if isinstance(exercise.source, str):
        return "", exercise.source
    target = inspect.unwrap(exercise.source)
    lines, first = inspect.getsourcelines(target)
    path = inspect.getmodule(target).__name__.replace(".", "/") + ".py"
    return f"{path}, line {first}", inspect.cleandoc("".join(lines))
