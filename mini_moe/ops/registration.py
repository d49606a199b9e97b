"""Register a compiled operation's shapes and derivative with torch."""

from collections.abc import Callable

import torch

from mini_moe.ops import compiled


def register(
    name: str,
    shapes: Callable,
    gradient_shapes: Callable,
    differentiate: Callable,
    save: Callable,
    backward: str = "",
) -> None:
    """Register the shapes and derivative of `mini_moe::NAME`; its backward has no derivative.

    `backward` names the backward operation, NAME_backward by default. Does nothing if the library
    is not loaded.
    """
    if compiled.WHY_NOT:
        return
    backward = backward or f"{name}_backward"

    def refuse(ctx, *grads):
        raise RuntimeError(f"the gradient of {name} can't be differentiated again")

    torch.library.register_fake(f"mini_moe::{name}", shapes)
    torch.library.register_fake(f"mini_moe::{backward}", gradient_shapes)
    torch.library.register_autograd(f"mini_moe::{name}", differentiate, setup_context=save)
    torch.library.register_autograd(f"mini_moe::{backward}", refuse)


def no_gradient(ctx, *gradients):
    """Raise RuntimeError, since torch would only warn and drop the gradients."""
    raise RuntimeError("this operation can't be differentiated; moe_experts and linear can")
