"""What torch learns of an operation compiled for the CPU alone: shapes and a derivative."""

from collections.abc import Callable

import torch

from mini_moe.ops import compiled


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
