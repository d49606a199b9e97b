"""How evenly experts are used, and how even the load would be by chance alone."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mini_moe.arguments import integers, number, whole


def expert_load(
    expert_ids: Int[Tensor, "*layers tokens top_k"], n_experts: int
) -> Float[Tensor, "*layers experts"]:
    """Share of all choices that went to each expert; the shares of a layer sum to one.

    An even load is 1 / n_experts. Source: DeepSeek-V3, arXiv 2412.19437 §4.5.3, whose
    relative expert load is this times n_experts.
    Raises: ValueError if there are no choices, or for an expert that does not exist.
    """
    n_experts = check_choices(expert_ids, n_experts)
    flat = expert_ids.flatten(-2).long()
    counts = torch.zeros(*flat.shape[:-1], n_experts, dtype=torch.long, device=flat.device)
    counts.scatter_add_(-1, flat, torch.ones_like(flat, dtype=counts.dtype))
    return counts / flat.shape[-1]


def check_choices(expert_ids: Tensor, n_experts: int) -> int:
    """Check a tensor of choices and return n_experts as an int.

    Raises: ValueError for no choices, an expert outside [0, n_experts), or a wrong type.
    """
    n_experts = whole("n_experts", n_experts, 1)
    if not integers("expert_ids", expert_ids).numel():
        raise ValueError(f"expert_ids: at least one choice expected, got {list(expert_ids.shape)}")
    low, high = int(expert_ids.min()), int(expert_ids.max())
    if low < 0 or high >= n_experts:
        raise ValueError(f"expert_ids must lie in [0, {n_experts}), got {low} to {high}")
    return n_experts


def relative_load(load: Float[Tensor, "*layers experts"]) -> Float[Tensor, "*layers experts"]:
    """Each expert's load divided by the mean load: 1 is even, 2 is twice the even share.

    Source: DeepSeek-V3, arXiv 2412.19437 §4.5.3 and figure 9.
    """
    return load / load.mean(dim=-1, keepdim=True)


def max_violation(load: Float[Tensor, "*layers experts"]) -> Float[Tensor, "*layers"]:
    """MaxVio: how far the busiest expert is above the mean load; 0 is even, 1 is twice the mean.

    (max load − mean load) / mean load. Source: arXiv 2408.15664 §4.1, equation 4.
    """
    return load.max(dim=-1).values / load.mean(dim=-1) - 1


def load_entropy(load: Float[Tensor, "*layers experts"]) -> Float[Tensor, "*layers"]:
    """Entropy of the load over its maximum, ln n_experts: 1 is even, 0 means one gets everything.

    −Σ p ln p / ln n_experts, after Shannon (1948) §6. A layer with a single expert counts as even.
    """
    share = load / load.sum(dim=-1, keepdim=True)
    if load.shape[-1] == 1:
        return torch.ones_like(share[..., 0])
    return torch.special.entr(share).sum(dim=-1) / math.log(load.shape[-1])


def load_variation(load: Float[Tensor, "*layers experts"]) -> Float[Tensor, "*layers"]:
    """Coefficient of variation: standard deviation of the load over its mean; 0 is even.

    √(mean((load − mean)²)) / mean, without Bessel's correction: these are all the experts, not a
    sample. Source: Shazeer et al., arXiv 1701.06538 §4, whose balance loss is its square.
    """
    return load.std(dim=-1, correction=0) / load.mean(dim=-1)


def dead_experts(load: Float[Tensor, "*layers experts"]) -> Int[Tensor, "*layers"]:
    """Number of experts that no token chose."""
    return (load == 0).sum(dim=-1)


def dead_share(load: Float[Tensor, "*layers experts"]) -> Float[Tensor, "*layers"]:
    """Share of the experts that no token chose, from 0 to 1."""
    return dead_experts(load) / load.shape[-1]


def noise_floor(n_experts: int, tokens_per_expert: float) -> float:
    """MaxVio that uniformly random routing shows by chance, about √(2 ln N / m).

    That is for N experts with m tokens each on average: the largest of N normal deviations of
    relative size 1/√m. A measured MaxVio below this says nothing. 0 for a single expert.
    Raises: ValueError unless there is at least one expert and more than 0 tokens per expert.
    """
    n_experts = whole("n_experts", n_experts, 1)
    tokens_per_expert = number("tokens_per_expert", tokens_per_expert, above=0)
    return math.sqrt(2 * math.log(n_experts) / tokens_per_expert)
