"""What uniformly random routing looks like: the baseline for every measure of balance."""

import torch
from jaxtyping import Float
from torch import Tensor

from mini_moe.routing import (
    dead_experts,
    expert_load,
    load_entropy,
    load_variation,
    max_violation,
)

DRAWS = 200


def chance_load(
    n_experts: int, top_k: int, n_tokens: int, draws: int = DRAWS, seed: int = 0
) -> Float[Tensor, "draws experts"]:
    """Sample loads of batches whose tokens choose `top_k` distinct experts uniformly at random.

    Raises: ValueError unless 1 ≤ top_k ≤ n_experts, with at least one token and one draw.
    """
    if not 1 <= top_k <= n_experts:
        raise ValueError(f"top_k={top_k} must be between 1 and n_experts={n_experts}")
    if n_tokens < 1 or draws < 1:
        raise ValueError(f"n_tokens={n_tokens} and draws={draws} must be at least 1")
    generator = torch.Generator().manual_seed(seed)
    loads = []
    for _ in range(draws):
        ids = torch.rand(n_tokens, n_experts, generator=generator).topk(top_k).indices
        loads.append(expert_load(ids, n_experts))
    return torch.stack(loads)


def measures(load: Float[Tensor, "*layers experts"]) -> dict[str, Float[Tensor, ""]]:
    """Return MaxVio, entropy, CV and dead experts, each averaged over all leading axes."""
    return {
        "MaxVio": max_violation(load).mean(),
        "entropy": load_entropy(load).mean(),
        "CV": load_variation(load).mean(),
        "dead experts": dead_experts(load).float().mean(),
    }
