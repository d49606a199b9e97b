"""Checks of arguments: numbers from Python, numpy or torch, and errors that say what came."""

import math
import operator
import reprlib
from collections.abc import Iterable, Mapping, Set
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor


def whole(name: str, value: Any, least: int | None = None, most: int | None = None) -> int:
    """An integer from Python, numpy or torch (0-d), as an int; neither a bool nor a float is one.

    Raises: ValueError that names the argument, what was expected and what came.
    """
    if is_whole(value):
        found = operator.index(value)
        if (least is None or found >= least) and (most is None or found <= most):
            return found
    allowed = "" if least is None else f" of at least {least}"
    allowed = allowed if most is None else f" in [{least}, {most}]"
    raise refused(name, value, f"an integer{allowed}")


def number(
    name: str,
    value: Any,
    *,
    least: int | float = -math.inf,
    above: int | float = -math.inf,
    most: int | float = math.inf,
) -> float:
    """A finite number from Python, numpy or torch (0-d), as a float; a bool isn't one.

    Raises: ValueError that names the argument, what was expected and what came.
    """
    found = _as_float(value)
    if math.isfinite(found) and least <= found <= most and found > above:
        return found
    low = f"({above:g}" if above > -math.inf else f"[{least:g}"
    allowed = f" of at least {least:g}" if least > -math.inf else ""
    allowed = f" above {above:g}" if above > -math.inf else allowed
    allowed = f" in {low}, {most:g}]" if most < math.inf else allowed
    raise refused(name, value, f"a finite number{allowed}")


def flag(name: str, value: Any) -> bool:
    """True or False, from Python or numpy. Raises: ValueError that names the argument."""
    if isinstance(value, bool | np.bool_):
        return bool(value)
    raise refused(name, value, "True or False")


def items(name: str, value: Any, expected: str, *, ordered: bool = False) -> list:
    """What a list, array, set (unless `ordered`) or the like holds, in Python's types.

    A text isn't a list of its characters, nor a mapping one of its keys.
    Raises: ValueError that names the argument, what was expected and what came.
    """
    other = isinstance(value, str | bytes | bytearray | Mapping) or (
        ordered and isinstance(value, Set)
    )
    if other or getattr(value, "ndim", 1) == 0 or not isinstance(value, Iterable):
        raise refused(name, value, expected)
    return value.tolist() if isinstance(value, Tensor | np.ndarray) else list(value)


def integers(name: str, value: Any) -> Tensor:
    """A tensor of integers as it is. Raises: ValueError that names the argument."""
    found = type(value).__name__
    if isinstance(value, Tensor):
        if not (value.is_floating_point() or value.is_complex() or value.dtype == torch.bool):
            return value
        found = str(value.dtype)
    raise ValueError(f"{name}: a tensor of integers expected, got {found}")


def is_whole(value: Any) -> bool:
    """Whether `whole` takes a value for an integer."""
    is_bool = isinstance(value, bool | np.bool_)
    is_bool = is_bool or (isinstance(value, Tensor) and value.dtype == torch.bool)
    if is_bool or getattr(value, "ndim", 0):
        return False
    try:
        operator.index(value)
    except TypeError:
        return False
    return True


def refused(name: str, value: Any, expected: str) -> ValueError:
    """The error for an argument that isn't what was expected."""
    return ValueError(f"{name}={reprlib.repr(value)} must be {expected}")


def _as_float(value: Any) -> float:
    """A number as a float; NaN for what is none, or too large to be one."""
    if isinstance(value, Tensor | np.ndarray) and not value.ndim:
        value = value.item()
    if not isinstance(value, Real) or isinstance(value, bool):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan
