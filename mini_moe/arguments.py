"""Checks of arguments: numbers from Python, numpy or torch, and errors that say what came."""

import math
import operator
import reprlib
import sys
from collections.abc import Iterable
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
    least: float = -math.inf,
    above: float = -math.inf,
    most: float = math.inf,
) -> float:
    """A finite number from Python, numpy or torch (0-d), as a float; a bool isn't one.

    Raises: ValueError that names the argument, what was expected and what came.
    """
    is_scalar = isinstance(value, Tensor | np.ndarray) and not value.ndim
    found = value.item() if is_scalar else value
    if isinstance(found, Real) and not isinstance(found, bool):
        finite = abs(found) <= sys.float_info.max
        if finite and least <= found <= most and found > above:
            return float(found)
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


def items(name: str, value: Any, expected: str) -> list:
    """What a list, set, array or the like holds; a text isn't a list of its characters.

    Raises: ValueError that names the argument, what was expected and what came.
    """
    single = isinstance(value, str | bytes | bytearray) or getattr(value, "ndim", 1) == 0
    if single or not isinstance(value, Iterable):
        raise refused(name, value, expected)
    return list(value)


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
