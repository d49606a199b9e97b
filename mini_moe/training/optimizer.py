"""Muon for matrices, AdamW for everything else, and the learning rate over a run."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mini_moe.config import TrainConfig
from mini_moe.model import Transformer
from mini_moe.model.router import Router

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # of x, x³, x⁵: drive singular values to one


class Muon(torch.optim.Optimizer):
    """Momentum SGD in which every step is a matrix with singular values near one.

    m ← β m + g; step = −lr · √max(1, rows / columns) · orthogonalise(g + β m).
    Unlike torch.optim.Muon, this one also accepts stacks of matrices (experts), and processes all
    matrices of one shape in one batch.
    Source: Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024).
    """

    def __init__(self, params, lr: float, momentum: float, weight_decay: float, bf16: bool) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "bf16": bf16}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure=None) -> None:
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape.setdefault(parameter.shape[-2:], []).append(parameter)
            for parameters in by_shape.values():
                self._step_together(parameters, group)

    def _step_together(self, parameters: list[nn.Parameter], group: dict) -> None:
        shape = parameters[0].shape[-2:]
        directions = [self._direction(p, group["momentum"]).reshape(-1, *shape) for p in parameters]
        steps = orthogonalise(torch.cat(directions), torch.bfloat16 if group["bf16"] else None)
        scale = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
        sizes = [len(direction) for direction in directions]
        for parameter, step in zip(parameters, steps.split(sizes), strict=True):
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.add_(step.reshape(parameter.shape), alpha=-scale)

    def _direction(self, parameter: nn.Parameter, momentum: float) -> Tensor:
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].mul_(momentum).add_(parameter.grad)
        return parameter.grad.add(state["momentum"], alpha=momentum)


def orthogonalise(
    matrices: Float[Tensor, "batch rows columns"], dtype: torch.dtype | None = None, steps: int = 5
) -> Float[Tensor, "batch rows columns"]:
    """Return the nearest matrices whose singular values are all about one (0.7 to 1.2).

    Newton–Schulz: X ← a X + b (X Xᵀ) X + c (X Xᵀ)² X, from X = M / ‖M‖, in the wide orientation.
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = (x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)).to(dtype or matrices.dtype)
    a, b, c = NEWTON_SCHULZ
    for _ in range(steps):
        gram = x @ x.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return (x.mT if tall else x).to(matrices.dtype)


def build_optimizers(
    model: Transformer, config: TrainConfig, bf16: bool
) -> list[torch.optim.Optimizer]:
    """Muon for matrices inside blocks; AdamW for embedding, head, norms and routers, or for all.

    Routers use AdamW because their rows compete with each other, which Muon's steps of equal length
    for all rows would blur.
    """
    routers = {id(m.weight) for m in model.modules() if isinstance(m, Router)}
    outer = {id(model.embed_tokens.weight), id(model.lm_head.weight)}
    matrices, rest = [], []
    for parameter in model.parameters():
        inner = parameter.ndim >= 2 and id(parameter) not in routers | outer
        (matrices if inner else rest).append(parameter)
    if config.optimizer == "adamw":
        groups = [
            {"params": matrices, "lr": config.learning_rate},
            {"params": rest, "lr": config.adamw_learning_rate},
        ]
        return [_adamw(groups, config)]
    rate = config.learning_rate
    muon = Muon(matrices, rate, config.momentum, config.weight_decay, bf16)
    return [muon, _adamw([{"params": rest, "lr": config.adamw_learning_rate}], config)]


def _adamw(groups: list[dict], config: TrainConfig) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        groups, betas=config.betas, eps=1e-10, weight_decay=config.weight_decay, fused=True
    )


def learning_rate_factor(step: int, config: TrainConfig) -> float:
    """Return the factor on all peak rates: up over `warmup_steps`, flat, then down to zero.

    `step` counts from 0. The decay is linear over the last `decay_fraction` of the run.
    Source: warmup-stable-decay, arXiv 2404.06395 §4.
    """
    warmup = min(1.0, (step + 1) / (config.warmup_steps + 1))
    decay = (config.steps - step) / max(1.0, config.decay_fraction * config.steps)
    return min(warmup, decay, 1.0)


def begin_step(optimizers: list[torch.optim.Optimizer], step: int, config: TrainConfig) -> float:
    """Set a step's learning rates and clear old gradients; return the factor on the peak rates."""
    factor = learning_rate_factor(step, config)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group.setdefault("peak_lr", group["lr"]) * factor
        optimizer.zero_grad(set_to_none=True)
    return factor
