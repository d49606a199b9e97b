"""Exercises of 04_router: from scores to chosen experts and gates."""

import dataclasses

import torch
from torch import Tensor

from mini_moe import presets
from mini_moe.config import ModelConfig
from mini_moe.model import router
from mini_moe.teaching.exercise import Mistake, exercise


def config(**changes: object) -> ModelConfig:
    """Eight experts in four groups of two, of which a token may use two; three experts a token."""
    small = {"n_routed_experts": 8, "top_k": 3, "n_expert_groups": 4, "top_k_groups": 2}
    return dataclasses.replace(presets.tiny(), **{**small, **changes})


def some_logits(tokens: int = 5) -> Tensor:
    """The same random router logits [tokens, 8] at every call."""
    return torch.randn(tokens, 8, generator=torch.Generator().manual_seed(4))


def some_bias() -> Tensor:
    """A bias that changes what many tokens choose."""
    return torch.tensor([0.3, -0.3, 0.0, 0.4, -0.4, 0.2, 0.0, -0.2])


choose = exercise(
    router.choose,
    difficulty=2,
    importance=4,
    minutes=5,
    hints=(
        "Sort from large to small and keep the first k places; indices are wanted, not values.",
        "`torch.topk` may break a tie either way; `sort(..., stable=True)` keeps the lower first.",
    ),
)
choose.agrees("best first", lambda: (torch.tensor([[0.1, 0.9, 0.5, 0.7]]), 3))


@choose.probe("a tie")
def _(student):
    chosen = student(torch.full((1, 40), 0.5), 3)[0].tolist()
    if chosen != [0, 1, 2]:
        raise Mistake(f"of 40 equal values you choose {chosen}; the lower index wins: [0, 1, 2]")


choose.agrees("negative and infinite values", lambda: (torch.tensor([[-1.0, -9e9, -2.0]]), 2))


gate_weights = exercise(
    router.gate_weights,
    difficulty=2,
    importance=5,
    minutes=5,
    hints=(
        "Divide each token's chosen scores by their sum, but only where config.norm_topk_prob.",
        "`sum(dim=-1, keepdim=True)` keeps one sum a token.",
        "At the end multiply by config.route_scale, in either case.",
    ),
)
CHOSEN = torch.tensor([[0.9, 0.6, 0.3], [0.2, 0.1, 0.1], [0.5, 0.5, 0.5]])


@gate_weights.probe("three tokens, norm_topk_prob=True")
def _(student):
    gates = student(CHOSEN.clone(), config())
    for token, total in enumerate(gates.sum(dim=-1).tolist()):
        if abs(total - 2.5) > 1e-4:
            raise Mistake(
                f"your gates sum to {total:.3g} for token {token}; they must sum to route_scale=2.5"
            )


gate_weights.agrees("three tokens, norm_topk_prob=True", lambda: (CHOSEN.clone(), config()))
gate_weights.agrees("norm_topk_prob=False", lambda: (CHOSEN.clone(), config(norm_topk_prob=False)))


allowed_experts = exercise(
    router.allowed_experts,
    difficulty=4,
    importance=3,
    minutes=15,
    hints=(
        "Reshape to [tokens, groups, experts of a group]; neighbours make a group.",
        "A group is worth the sum of its two best (group_score='top2_sum') or its best ('max').",
        "Choose top_k_groups groups, mark them True with `scatter`, repeat for each expert.",
    ),
)


@allowed_experts.probe("five tokens, two of four groups")
def _(student):
    allowed = student(some_logits().sigmoid(), config())
    if allowed.dtype != torch.bool:
        raise Mistake(f"your result holds {allowed.dtype}; True and False are expected")
    for token, count in enumerate(allowed.sum(dim=-1).tolist()):
        if count != 4:
            raise Mistake(
                f"you allow {count} experts for token {token}; two groups of two are 4 experts"
            )


allowed_experts.agrees(
    "groups are worth the sum of their two best",
    lambda: (torch.tensor([[0.9, 0.0, 0.6, 0.5, 0.1, 0.1, 0.7, 0.1]]), config()),
)
allowed_experts.agrees(
    "groups are worth their best",
    lambda: (
        torch.tensor([[0.9, 0.0, 0.6, 0.5, 0.1, 0.1, 0.7, 0.1]]),
        config(group_score="max"),
    ),
)
allowed_experts.agrees(
    "groups of four, of which only two count",
    lambda: (
        torch.tensor([[0.4, 0.4, 0.4, 0.4, 0.9, 0.1, 0.1, 0.1]]),
        config(n_expert_groups=2, top_k_groups=1),
    ),
)


route = exercise(
    router.route,
    difficulty=4,
    importance=5,
    minutes=20,
    hints=(
        "scores → + bias → −inf outside allowed_experts → choose → gather the scores → gates.",
        "The bias belongs to choice_scores only; `scores.gather(-1, expert_ids)` is without it.",
        "Give `Routing(logits, scores, choice_scores, expert_ids, gates)` back.",
    ),
)


@route.probe("the bias chooses but never weighs")
def _(student):
    plain = config(n_expert_groups=1, top_k_groups=1, top_k=8, norm_topk_prob=False)
    routing = student(some_logits(), some_bias(), plain)
    wanted = some_logits().sigmoid().gather(-1, routing[3]) * 2.5
    off = (routing[4] - wanted).abs().max().item()
    if off > 1e-4:
        raise Mistake(
            f"a gate differs by {off:.2g} from route_scale · score; gates come from the scores "
            "without the bias"
        )


route.agrees("without a bias", lambda: (some_logits(), None, config()), "your routing")
route.agrees("with a bias", lambda: (some_logits(), some_bias(), config()), "your routing")
route.agrees(
    "one group only",
    lambda: (some_logits(), some_bias(), config(n_expert_groups=1, top_k_groups=1)),
    "your routing",
)
route.agrees(
    "softmax scores",
    lambda: (some_logits(), None, config(score_function="softmax")),
    "your routing",
)
