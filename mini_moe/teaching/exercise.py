"""What an exercise is, and where all of them are registered.

To add one, write in the file of its notebook (`part1_build/router.py`, ...):

    gate_weights = exercise(
        router.gate_weights,  # the package's own, which `solution` shows
        difficulty=2, importance=5, minutes=5,
        hints=("Divide by the sum first.", "`keepdim=True` keeps the shapes fitting."),
    )
    gate_weights.agrees("two tokens", lambda: (torch.tensor([[0.2, 0.6]]), config()))

    @gate_weights.probe("the gates of a token sum to route_scale")
    def _(student):
        total = student(torch.tensor([[0.2, 0.6]]), config()).sum().item()
        if abs(total - 2.5) > 1e-4:
            raise Mistake(f"your gates sum to {total:.3g}; they must sum to route_scale=2.5")

Probes run in the order in which they are written; the first one that fails speaks. Then name at
least three wrong answers in tests/teaching/wrong_answers/, or the tests fail.
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
    """One task: the package's own answer, what it is probed with, and the way to it."""

    name: str
    answer: Any  # the package's function, a number, or one of `choices`
    source: Any  # what `solution` shows: an object with source code, or an explanation
    hints: tuple[str, ...]
    difficulty: int  # 1 to 5
    importance: int  # 1 to 5
    minutes: int
    tolerance: int | float = 0.0  # how far off a number may be
    choices: tuple[str, ...] = ()  # names that an answer is chosen from
    given: str = ""  # the CUDA source that a lesson starts from, where a kernel is asked for
    probes: list[tuple[str, Callable[[Any], None]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in ("difficulty", "importance"):
            if not 1 <= getattr(self, name) <= 5:
                raise ValueError(f"{self.name}: {name}={getattr(self, name)}, 1 to 5 expected")
        if self.minutes < 1 or not self.hints:
            raise ValueError(f"{self.name}: minutes of at least 1 and at least one hint expected")

    @property
    def is_function(self) -> bool:
        """True where the student writes a function, False where a number or a name."""
        return callable(self.answer)

    @property
    def kind(self) -> str:
        """What is asked for: "function", "kernel", "choice" or "value"."""
        if self.is_function or self.given:
            return "function" if self.is_function else "kernel"
        return "choice" if self.choices else "value"

    def judge(self, answer: Any) -> None:
        """Run every probe; a number or a choice must also be the right one.

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
        """Register a function that takes the student's answer and raises `Mistake`."""

        def register(run: Callable[[Any], None]) -> Callable[[Any], None]:
            self.probes.append((description, run))
            return run

        return register

    def agrees(
        self, description: str, arguments: Callable[[], tuple], what: str = "your result"
    ) -> None:
        """Probe that the student's function gives what the package's gives, and spares its input.

        `arguments` makes fresh arguments at each call.
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
    """Register a function to be written; it is called as the package's function is.

    `source` is what `solution` shows when that is not the answer itself.
    """
    return _register(
        Exercise(name=name or answer.__name__, answer=answer, source=source or answer, **fields)
    )


def value_exercise(
    name: str, answer: int | float, *, explanation: str, tolerance: int | float = 0.0, **fields: Any
) -> Exercise:
    """Register a number to be found; `tolerance` is how far off it may be.

    Probes written afterwards run first, so that they can name a typical error.
    """
    return _register(
        Exercise(name=name, answer=answer, source=explanation, tolerance=tolerance, **fields)
    )


def choice_exercise(
    name: str, answer: str, choices: tuple[str, ...], *, explanation: str, **fields: Any
) -> Exercise:
    """Register a name to be chosen from `choices`; the right one is followed by the explanation.

    Probes written afterwards run first, so that they can say what speaks against a wrong choice.
    Raises: ValueError where the answer is none of the choices.
    """
    if answer not in choices:
        raise ValueError(f"{name}: answer={answer!r} is none of choices={choices}")
    return _register(
        Exercise(name=name, answer=answer, source=explanation, choices=choices, **fields)
    )


def kernel_exercise(
    name: str, answer: str, given: str, *, where: str = "", **fields: Any
) -> Exercise:
    """Register CUDA source to be written or mended; the lesson's cell holds `given`.

    `where` says what in kernels/ it stands for.
    """
    source = f"```cpp\n{answer.strip()}\n```" + (f"\n{where}" if where else "")
    return _register(Exercise(name=name, answer=answer, source=source, given=given, **fields))


def _register(made: Exercise) -> Exercise:
    if made.name in EXERCISES:
        raise ValueError(f"name={made.name!r} is registered twice")
    EXERCISES[made.name] = made
    return made


def find(name: str) -> Exercise:
    """The exercise of that name.

    Raises: AttributeError that lists the names there are.
    """
    load_all()
    if name not in EXERCISES:
        close = difflib.get_close_matches(name, EXERCISES, n=1)
        guess = f" Did you mean {close[0]!r}?" if close else ""
        raise AttributeError(
            f"there is no exercise {name!r}.{guess} There are: {', '.join(sorted(EXERCISES))}"
        )
    return EXERCISES[name]


def load_all() -> None:
    """Import every file below this folder, which registers its exercises."""
    package = importlib.import_module("mini_moe.teaching")
    for module in pkgutil.walk_packages(package.__path__, "mini_moe.teaching."):
        importlib.import_module(module.name)


def source_text(exercise: Exercise) -> tuple[str, str]:
    """Where the answer stands ("mini_moe/model/layers.py, line 50") and its text."""
    if isinstance(exercise.source, str):
        return "", exercise.source
    target = inspect.unwrap(exercise.source)
    lines, first = inspect.getsourcelines(target)
    path = inspect.getmodule(target).__name__.replace(".", "/") + ".py"
    return f"{path}, line {first}", inspect.cleandoc("".join(lines))
