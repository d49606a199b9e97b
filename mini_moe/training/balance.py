"""Balance without a loss: move each expert's bias against its load."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mini_moe.model import Routing, Transformer
from mini_moe.model.router import Router


def count_choices(routings: list[Routing]) -> Int[Tensor, "layers experts"]:
    """How many tokens chose each expert, for every recorded layer."""
    n_experts = routings[0].scores.shape[-1]
    return torch.stack(
        [torch.bincount(r.expert_ids.flatten(), minlength=n_experts) for r in routings]
    )


@torch.no_grad()
def update_expert_bias(
    bias: Float[Tensor, "experts"], counts: Int[Tensor, "experts"], rate: float
) -> None:
    """bias += rate · sign(mean count − count), in place: the busy become a little less attractive.

    The counts are those of a batch that is already done, so a token's routing never depends on the
    tokens after it. Source: arXiv 2408.15664 §3, algorithm 1; DeepSeek-V3, arXiv 2412.19437 §2.1.2.
    """
    counts = counts.to(bias.dtype)
    bias += rate * torch.sign(counts.mean() - counts)


def update_all_biases(model: Transformer, counts: Tensor, rate: float) -> None:
    """`update_expert_bias` for every router of the model, in the order in which they ran."""
    routers = [module for module in model.modules() if isinstance(module, Router)]
    for router, layer_counts in zip(routers, counts, strict=True):
        if router.e_score_correction_bias is not None:
            update_expert_bias(router.e_score_correction_bias, layer_counts, rate)
