"""Balance without a loss: move each expert's bias against its load."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mini_moe.config import BiasUpdate
from mini_moe.model import Routing
from mini_moe.model.router import Router


def count_choices(routings: list[Routing]) -> Int[Tensor, "layers experts"]:
    """Count how many tokens chose each expert, for every recorded layer."""
    n_experts = routings[0].scores.shape[-1]
    ids = torch.stack([routing.expert_ids.flatten() for routing in routings])
    counts = ids.new_zeros(len(ids), n_experts)
    return counts.scatter_add_(1, ids, torch.ones_like(ids))  # bincount would wait for a GPU


@torch.no_grad()
def update_expert_bias(
    bias: Float[Tensor, "experts"], counts: Int[Tensor, "experts"], rate: float
) -> None:
    """bias += rate · sign(mean count − count), in place: busy experts become less attractive.

    The counts come from a batch that is already done, so a token's routing never depends on the
    tokens after it. A half-precision bias becomes fp32 (`widen`).
    Source: arXiv 2408.15664 §3, algorithm 1; DeepSeek-V3, arXiv 2412.19437 §2.1.2.
    """
    widen(bias)
    counts = counts.float() if counts.is_floating_point() else counts.long()
    error = counts.sum() - len(counts) * counts  # (mean − count) · experts, exact for integers
    bias += rate * torch.sign(error).to(bias.dtype)


@torch.no_grad()
def update_expert_bias_proportionally(
    bias: Float[Tensor, "experts"], counts: Int[Tensor, "experts"], rate: float
) -> None:
    """bias += rate · (mean count − count) / mean count, in place: proportional to the error.

    Source: arXiv 2408.15664 §4.3 compares it with the sign. Dividing by the mean, so that the rate
    doesn't depend on the batch size, is our addition.
    """
    widen(bias)
    counts = counts.to(bias.dtype)
    mean = counts.mean()
    bias += rate * (mean - counts) / mean.clamp(min=1e-9)  # no choices at all: no error


def widen(bias: Tensor) -> None:
    """Convert a half-precision bias to fp32, in place.

    A step of 0.003 is less than half of bfloat16's spacing at 1, so it would be lost.
    Raises: ValueError for any other type, or for a view of a larger tensor, whose type can't be
    changed on its own.
    """
    if bias.dtype in (torch.float32, torch.float64):
        return
    if not bias.is_floating_point() or bias._is_view():
        whole = " that is no view of another tensor" if bias._is_view() else ""
        raise ValueError(f"bias: float32{whole} expected, got {bias.dtype}")
    bias.data = bias.float()


UPDATES = {"sign": update_expert_bias, "proportional": update_expert_bias_proportionally}


def update_all_biases(
    model: nn.Module, counts: Tensor, rate: float, update: BiasUpdate = "sign"
) -> None:
    """Update every router's bias once, in the order in which the routers ran."""
    routers = [module for module in model.modules() if isinstance(module, Router)]
    for router, layer_counts in zip(routers, counts, strict=True):
        if router.e_score_correction_bias is not None:
            UPDATES[update](router.e_score_correction_bias, layer_counts, rate)
