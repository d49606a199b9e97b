"""Argument checks: numbers from Python, numpy or torch, and errors that show what was received."""

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
    """Return an integer from Python, numpy or torch (0-d) as an int; refuse bools and floats.

    Raises: ValueError naming the argument, what was expected and what was received.
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
    """Return a finite number from Python, numpy or torch (0-d) as a float; refuse bools.

    Raises: ValueError naming the argument, what was expected and what was received.
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
    """Return a Python or numpy boolean as a bool. Raises: ValueError naming the argument."""
    if isinstance(value, bool | np.bool_):
        return bool(value)
    raise refused(name, value, "True or False")


def items(name: str, value: Any, expected: str, *, ordered: bool = False) -> list:
    """Return the items of a list, array, set (unless `ordered`) or the like, as Python types.

    A string does not count as a list of characters, nor a mapping as a list of keys.
    Raises: ValueError naming the argument, what was expected and what was received.
    """
    other = isinstance(value, str | bytes | bytearray | Mapping) or (
        ordered and isinstance(value, Set)
    )
    if other or getattr(value, "ndim", 1) == 0 or not isinstance(value, Iterable):
        raise refused(name, value, expected)
    return value.tolist() if isinstance(value, Tensor | np.ndarray) else list(value)


def integers(name: str, value: Any) -> Tensor:
    """Return a tensor of integers unchanged. Raises: ValueError naming the argument."""
    found = type(value).__name__
    if isinstance(value, Tensor):
        if not (value.is_floating_point() or value.is_complex() or value.dtype == torch.bool):
            return value
        found = str(value.dtype)
    raise ValueError(f"{name}: a tensor of integers expected, got {found}")


def is_whole(value: Any) -> bool:
    """Return whether `whole` accepts a value as an integer."""
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
    """Return the error for an argument that isn't what was expected."""
    return ValueError(f"{name}={reprlib.repr(value)} must be {expected}")


def _as_float(value: Any) -> float:
    """Return a number as a float; NaN if it isn't a number or is too large for a float."""
    if isinstance(value, Tensor | np.ndarray) and not value.ndim:
        value = value.item()
    if not isinstance(value, Real) or isinstance(value, bool):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan
