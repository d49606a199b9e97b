"""Operations compiled for the CPU alone: when they serve, and what torch learns of them."""

from collections.abc import Callable

import torch
from torch import Tensor

from mini_moe.ops import compiled


def serves(*tensors: Tensor) -> bool:
    """Whether the library is there, switched on, and takes these types on the CPU."""
    if compiled.WHY_NOT or not compiled._switched_on:
        return False
    for tensor in tensors:  # a loop, since a generator costs as much as a small kernel
        if not tensor.is_cpu or tensor.dtype not in compiled.DTYPES:
            return False
    return True


def register(
    name: str, fake: Callable, fake_backward: Callable, differentiate: Callable, save: Callable
) -> None:
    """Shapes and derivative of `mini_moe::NAME`; its `NAME_backward` has no derivative.

    Does nothing where the library is not loaded.
    """
    if compiled.WHY_NOT:
        return

    def refuse(ctx, *grads):
        raise RuntimeError(f"the gradient of {name} can't be differentiated again")

    torch.library.register_fake(f"mini_moe::{name}", fake)
    torch.library.register_fake(f"mini_moe::{name}_backward", fake_backward)
    torch.library.register_autograd(f"mini_moe::{name}", differentiate, setup_context=save)
    torch.library.register_autograd(f"mini_moe::{name}_backward", refuse)
