"""A token's choice: which experts it chose, how narrowly, and whether the choice has changed."""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mini_moe.arguments import integers, whole
from mini_moe.routing.metrics import check_choices


def chosen_by(
    expert_ids: Int[Tensor, "*layers tokens top_k"], n_experts: int
) -> Bool[Tensor, "*layers tokens experts"]:
    """Return a mask that is True where a token chose an expert.

    Raises: ValueError for an expert that does not exist, or one listed twice for the same token.
    """
    n_experts = check_choices(expert_ids, n_experts)
    empty = torch.zeros(
        *expert_ids.shape[:-1], n_experts, dtype=torch.bool, device=expert_ids.device
    )
    chosen = empty.scatter(-1, expert_ids.long(), True)
    if int(chosen.sum()) != expert_ids.numel():
        raise ValueError("expert_ids: every token must choose top_k different experts")
    return chosen


def saturation(
    early: Int[Tensor, "*layers tokens top_k"], late: Int[Tensor, "*layers tokens top_k"]
) -> Float[Tensor, "*layers"]:
    """Share of a token's final experts an earlier checkpoint already chose: mean |E_t ∩ E_T| / k.

    Both arguments are choices for the same tokens; the order of the k experts doesn't matter.
    Chance level: k / n_experts for even loads, and Σ_e a_e b_e / k for uneven loads, where a_e and
    b_e are the shares of tokens that choose e.
    Noise: with n tokens, at most √(1/4n), or about 0.01 for 2,500.
    Source: OLMoE, arXiv 2409.02060 §5.1.
    Raises: ValueError for choices of different shapes.
    """
    integers("early", early), integers("late", late)
    if early.shape != late.shape or not early.numel():
        raise ValueError(
            f"early: the same choices as late expected, {list(late.shape)}, got {list(early.shape)}"
        )
    same = early.unsqueeze(-1) == late.unsqueeze(-2)
    return same.any(dim=-1).float().mean(dim=(-2, -1))


def gate_entropy(gates: Float[Tensor, "*any top_k"]) -> Float[Tensor, "*any"]:
    """How evenly a token weights its experts: entropy of its gates / ln k.

    1 if all gates are equal, 0 if one expert gets all the weight. Gates are divided by their sum
    first, so `route_scale` makes no difference. An untrained router gives nearly equal scores and
    hence about 1. Pass all of a token's scores instead of its gates to see how decided the router
    is before the choice.
    Source: normalised entropy, as in `load_entropy`.
    Raises: ValueError for fewer than two gates, or a negative one.
    """
    if gates.shape[-1] < 2 or bool((gates < 0).any()):
        raise ValueError(f"gates: at least two, none negative, expected, got {list(gates.shape)}")
    shares = gates.float() / gates.float().sum(dim=-1, keepdim=True)
    return torch.special.entr(shares).sum(dim=-1) / math.log(gates.shape[-1])


def choice_margin(
    choice_scores: Float[Tensor, "*any experts"], top_k: int
) -> Float[Tensor, "*any"]:
    """How far the last chosen expert is ahead of the first one left out: k-th − (k+1)-th score.

    In units of the choice scores, which include the bias because they decide. If the margin is
    smaller than one bias update (γ = 0.001 in DeepSeek-V3, arXiv 2412.19437 §4.2), the next step
    may reverse the choice. Chance level: gaps between N independent scores are about their
    spread / N.
    Raises: ValueError unless 1 ≤ top_k < experts.
    """
    top_k = whole("top_k", top_k, 1, choice_scores.shape[-1] - 1)
    best = choice_scores.topk(top_k + 1, dim=-1).values
    return best[..., -2] - best[..., -1]
