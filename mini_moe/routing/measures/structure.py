"""Which experts work together, within a layer and from one layer to the next."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mini_moe.arguments import whole
from mini_moe.routing.measures.choices import chosen_by


def count_pairs(
    expert_ids: Int[Tensor, "*layers tokens top_k"], n_experts: int
) -> Int[Tensor, "*layers experts experts"]:
    """Count the tokens that chose both i and j: N_ij, with N_i on the diagonal.

    Counts of several texts can be added.
    """
    chosen = chosen_by(expert_ids, n_experts).double()
    return (chosen.mT @ chosen).round().long()


def coactivation(
    expert_ids: Int[Tensor, "*layers tokens top_k"], n_experts: int
) -> Float[Tensor, "*layers experts experts"]:
    """Of the tokens that chose expert i (first index), the share that also chose j: N_ij / N_i.

    All pairs of a token's k experts count. Counting only neighbours in the ranking, as a script in
    OLMoE's repository does (scripts/run_moe_analysis.py, `pairwise`), finds only k − 1 of the
    k(k−1)/2 pairs and favours experts of similar rank. For each i the shares sum to k, and the
    share at j = i is 1; if no token chose expert i, they are NaN.
    Chance level: `coactivation_chance`; noise √(c(1−c)/N_i).
    Source: OLMoE, arXiv 2409.02060 §5.2.
    """
    pairs = count_pairs(expert_ids, n_experts)
    return pairs / pairs.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)


def coactivation_chance(
    load: Float[Tensor, "*layers experts"], top_k: int
) -> Float[Tensor, "*layers experts experts"]:
    """Co-activation expected if experts were drawn one after another in proportion to their load.

    Given i, the other k − 1 choices include j with probability (k−1) · load_j / Σ_{m≠i} load_m.
    This is exactly (k−1)/(N−1) for even loads; for uneven loads it is an approximation, accurate
    to a few hundredths as long as no load is far from even. The diagonal is 1.
    """
    n_experts, top_k = load.shape[-1], whole("top_k", top_k, 1)
    shares = load / load.sum(dim=-1, keepdim=True)
    others = 1 - shares.unsqueeze(-1)
    expected = (top_k - 1) * shares.unsqueeze(-2) / others
    itself = torch.eye(n_experts, dtype=torch.bool, device=load.device)
    return expected.masked_fill(itself, 1.0)


def count_paths(
    expert_ids: Int[Tensor, "layers tokens top_k"], n_experts: int
) -> Int[Tensor, "transitions experts experts"]:
    """Count the tokens that chose i in one layer and j in the next: one N_ij table per layer pair.

    Raises: ValueError for fewer than two layers.
    """
    if len(expert_ids) < 2:
        raise ValueError(f"expert_ids: at least two layers expected, got {len(expert_ids)}")
    chosen = chosen_by(expert_ids, n_experts).double()
    return (chosen[:-1].mT @ chosen[1:]).round().long()


def path_shares(
    paths: Int[Tensor, "*transitions experts experts"], top_k: int
) -> Float[Tensor, "*transitions experts experts"]:
    """Of the tokens that chose i, the share that choose j in the next layer: N_ij / N_i.

    N_i = Σ_j N_ij / k. For each i the shares sum to k; if no token chose i, they are NaN.
    Chance level: `path_chance`; noise √(p(1−p)/N_i).
    Source: transition probabilities between choices, like the pairs of arXiv 2409.02060 §5.2.
    """
    return paths * whole("top_k", top_k, 1) / paths.sum(dim=-1, keepdim=True)


def path_chance(
    paths: Int[Tensor, "*transitions experts experts"], top_k: int
) -> Float[Tensor, "*transitions experts"]:
    """Return the share of all tokens that choose j in the next layer.

    `path_shares` would show this for every i if the two layers chose independently.
    """
    return paths.sum(dim=-2) * top_k / paths.sum(dim=(-2, -1)).unsqueeze(-1)
