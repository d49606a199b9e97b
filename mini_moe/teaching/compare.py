"""Compare an answer with the correct one and say what is wrong, with numbers."""

import difflib
import numbers
from typing import Any

import torch
from torch import Tensor

ABSOLUTE, RELATIVE = 1e-5, 1e-4  # how far floating-point answers may be off


class Mistake(Exception):
    """What is wrong with an answer, in one sentence with numbers."""


def must_match(got: Any, wanted: Any, what: str = "your result") -> None:
    """Check that tensors, numbers or tuples of them match.

    Raises: Mistake naming the first difference.
    """
    if isinstance(wanted, tuple):
        _match_tuples(got, wanted, what)
    elif isinstance(wanted, Tensor):
        _match_tensors(got, wanted, what)
    elif isinstance(wanted, numbers.Real):
        _match_numbers(got, wanted, what)
    elif got != wanted:
        raise Mistake(f"{what} is {got!r}; {wanted!r} expected")


def as_number(value: Any, what: str = "your answer") -> float | int:
    """Return a plain number, given a number or a one-element tensor.

    Raises: Mistake for anything else.
    """
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise Mistake(f"{what} is {_describe(value)}; a number expected")
    return value


def as_choice(value: Any, choices: tuple[str, ...]) -> str:
    """Return the matching choice; case and extra whitespace are ignored.

    Raises: Mistake listing the choices if none matches.
    """
    by_name = {choice.casefold(): choice for choice in choices}
    meant = " ".join(str(value).split()).casefold()
    if meant in by_name:
        return by_name[meant]
    close = difflib.get_close_matches(meant, by_name, n=1)
    guess = f" Did you mean {by_name[close[0]]!r}?" if close else ""
    listed = ", ".join(repr(choice) for choice in choices)
    raise Mistake(f"{value!r:.60} is not one of the choices.{guess} They are: {listed}")


def _match_tuples(got: Any, wanted: tuple, what: str) -> None:
    if not isinstance(got, tuple | list) or len(got) != len(wanted):
        count = f" of {len(got)}" if isinstance(got, tuple | list) else ""
        raise Mistake(f"{what} is {_describe(got)}{count}; {len(wanted)} values expected")
    names = getattr(wanted, "_fields", range(1, len(wanted) + 1))
    for name, ours, theirs in zip(names, wanted, got, strict=True):
        part = f"`{name}`" if isinstance(name, str) else f"value {name}"
        must_match(theirs, ours, f"{part} of {what}")


def _match_numbers(got: Any, wanted: int | float, what: str) -> None:
    got = as_number(got, what)
    if not abs(got - wanted) <= ABSOLUTE + RELATIVE * abs(wanted):
        raise Mistake(f"{what} is {_digits(got)}; {_digits(wanted)} expected")


def _match_tensors(got: Any, wanted: Tensor, what: str) -> None:
    if wanted.ndim == 0 and isinstance(got, numbers.Real) and not isinstance(got, bool):
        return _match_numbers(got, wanted.item(), what)
    if not isinstance(got, Tensor):
        raise Mistake(f"{what} is {_describe(got)}; a tensor {list(wanted.shape)} expected")
    if got.shape != wanted.shape:
        raise Mistake(f"{what} has shape {list(got.shape)}; {list(wanted.shape)} expected")
    if got.is_floating_point() != wanted.is_floating_point():
        raise Mistake(f"{what} has dtype {got.dtype}; {wanted.dtype} expected")
    if wanted.is_floating_point() and got.dtype != wanted.dtype:
        raise Mistake(f"{what} has dtype {got.dtype}; {wanted.dtype} expected, as in the input")
    ours, theirs = wanted.double(), got.double()
    near = torch.isclose(theirs, ours, atol=ABSOLUTE, rtol=RELATIVE, equal_nan=True)
    if near.all():
        return
    place = tuple((~near).nonzero()[0].tolist())
    where = f" at {list(place)}" if place else ""
    values = f"{_digits(got[place].item())}; {_digits(wanted[place].item())} expected"
    off = int((~near).sum())
    count = "" if off == 1 else f" ({off} of {near.numel()} entries differ)"
    raise Mistake(f"{what}{where} is {values}{count}")


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor {list(value.shape)}"
    if value is None:
        return "None (is a `return` missing?)"
    text = repr(value)
    return text if len(text) <= 40 else f"a {type(value).__name__}"


def _digits(value: int | float) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
