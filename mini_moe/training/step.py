"""One training step, shared by everything that trains a model; the caller supplies the losses."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor, nn

from mini_moe.config import TrainConfig
from mini_moe.device import device_of
from mini_moe.model import Routing
from mini_moe.training.balance import count_choices, update_all_biases
from mini_moe.training.checkpoint import TrainingDiverged
from mini_moe.training.optimizer import begin_step


class Step(NamedTuple):
    """A step's results, for the log."""

    losses: dict[str, float]  # by name
    gradient_norm: float  # before clipping
    rate: float  # share of the peak learning rates
    counts: Int[Tensor, "layers experts"] | None  # tokens per expert; None without MoE


def optimizer_step(
    model: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    config: TrainConfig,
    step: int,
    losses: Callable[[list[Routing]], NamedTuple],
    *,
    bf16: bool = False,
) -> Step:
    """Take training step number `step`, counted from 0; `model` is the part being trained.

    1. set the step's learning rates and clear old gradients
    2. compute `losses`, a NamedTuple with a `total`, under autocast; the callback appends each MoE
       layer's routing to the list it is given
    3. compute the gradients of the total and clip them
    4. check that the numbers are finite, the only point that waits for a GPU
    5. step the optimizers
    6. move each router's expert bias against its load, unless it is frozen

    Raises: TrainingDiverged if the total or the gradients are not finite; no weight has changed.
    """
    rate = begin_step(optimizers, step, config)
    routings: list[Routing] = []
    with torch.autocast(device_of(model).type, torch.bfloat16, enabled=bf16):
        found = losses(routings)
    found.total.backward()
    norm = clip_gradients(model, config)
    *values, gradient_norm = torch.stack([*found, norm]).tolist()
    by_name = dict(zip(found._fields, values, strict=True))
    check_finite(by_name["total"], gradient_norm, step)
    for optimizer in optimizers:
        optimizer.step()
    counts = count_choices(routings) if routings else None
    if counts is not None and step + 1 <= (1 - config.bias_freeze_fraction) * config.steps:
        update_all_biases(model, counts, config.bias_update_rate, config.bias_update)
    return Step(by_name, gradient_norm, rate, counts)


def clip_gradients(model: nn.Module, config: TrainConfig) -> Tensor:
    """Scale all gradients together to a norm of at most `grad_clip`; return the norm before."""
    return nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip or math.inf)


def check_finite(loss: float, gradient_norm: float, step: int) -> None:
    """Raise TrainingDiverged unless both numbers of step number `step` are finite."""
    if not (math.isfinite(loss) and math.isfinite(gradient_norm)):
        raise TrainingDiverged(
            f"loss {loss}, gradient norm {gradient_norm} at step {step + 1}; no weight was "
            "changed by it. Lower the learning rate, or clip gradients harder"
        )
