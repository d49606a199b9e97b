"""What surrounds a call and decides how it runs: the switch of forms, and autocast."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, get_args

import torch
from torch import Tensor

Form = Literal["definition", "pytorch", "compiled"]
_form: ContextVar[Form] = ContextVar("form", default="compiled")


@contextmanager
def use(form: Form) -> Iterator[None]:
    """Inside the `with` block, run operations in this form or, if there is none, a slower one.

    - "definition": the functions in `reference.py`, in plain PyTorch
    - "pytorch": the fast form that needs nothing but PyTorch, if there is one
    - "compiled": the kernels in `kernels/`, if they are built and accept the arguments; otherwise
      the same as "pytorch". This is the default outside any block.

    The switch applies only to the calling thread or asyncio task. A backward pass uses the form of
    its forward pass. `torch.compile` keeps the form that was active during tracing.

    Raises: ValueError for any other name.
    """
    if form not in get_args(Form):
        raise ValueError(f"form={form!r}: one of {list(get_args(Form))} expected")
    token = _form.set(form)
    try:
        yield
    finally:
        _form.reset(token)


@torch.compiler.assume_constant_result
def allowed_form() -> Form:
    """Return the form that the switch currently allows."""
    return _form.get()


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """Return autocast's dtype for matrix products on the device of x, or None if it is off."""
    if x.is_meta or not torch.is_autocast_enabled(x.device.type):
        return None
    return torch.get_autocast_dtype(x.device.type)
