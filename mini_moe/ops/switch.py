"""One switch with three positions: which form of the operations may run."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, get_args

import torch

Form = Literal["definition", "pytorch", "compiled"]
_form: ContextVar[Form] = ContextVar("form", default="compiled")


@contextmanager
def use(form: Form) -> Iterator[None]:
    """Run operations at most in this form inside the `with` block.

    - "definition": what `reference.py` says, in plain PyTorch
    - "pytorch": the fast form that needs nothing but PyTorch, where there is one
    - "compiled": the kernels of `kernels/`, where they are built and take the arguments; otherwise
      as "pytorch". This is what runs outside of any block.

    The switch holds for the calling thread or asyncio task only. A backward pass takes the form of
    its forward pass. `torch.compile` keeps the form in which it traced.

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
    """The form that the switch allows here and now."""
    return _form.get()
