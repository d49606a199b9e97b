"""Wrong answers to the exercises of 08_bugs."""

import torch

from mini_moe.model.router import choose, gate_weights
from mini_moe.teaching.part2_train.bugs import (
    balanced_forward,
    repaired_gate_weights,
    repaired_gates,
)
from mini_moe.training.balance import update_expert_bias
from mini_moe.training.losses import sequence_balance_loss


def biased_gates(scores, expert_bias, config):
    """As the patient did it."""
    choice_scores = scores + expert_bias
    expert_ids = choose(choice_scores, config.top_k)
    return expert_ids, gate_weights(choice_scores.gather(-1, expert_ids), config)


def without_bias(scores, expert_bias, config):
    """Takes the bias out of the choice as well."""
    expert_ids = choose(scores, config.top_k)
    return expert_ids, gate_weights(scores.gather(-1, expert_ids), config)


def not_normalised(scores, expert_bias, config):
    """Forgets gate_weights."""
    expert_ids, _ = repaired_gates(scores, expert_bias, config)
    return expert_ids, scores.gather(-1, expert_ids)


def detached(scores, expert_bias, config):
    """Right numbers that nothing can be learnt from."""
    return repaired_gates(scores.detach(), expert_bias, config)


def chosen_only(scores, top_k):
    """As the patient did it."""
    chosen = torch.zeros_like(scores).scatter(-1, choose(scores.detach(), top_k), 1.0)
    share = scores * chosen / (scores * chosen).sum(dim=-1, keepdim=True)
    frequency = chosen.mean(dim=0) * scores.shape[-1] / top_k
    return (frequency * share.mean(dim=0)).sum()


def sum_of_shares(scores, top_k):
    """P without its mean over tokens."""
    return sequence_balance_loss(scores, top_k, 1) * len(scores)


def along_the_tokens(scores, top_k):
    """A softmax over the wrong axis: P is constant, its gradient what rounding leaves."""
    chosen = torch.zeros_like(scores).scatter(-1, choose(scores.detach(), top_k), 1.0)
    frequency = chosen.mean(dim=0) * scores.shape[-1] / top_k
    return (frequency * scores.softmax(dim=0).mean(dim=0)).sum()


def always_moves(router, x, rate):
    """As the patient did it."""
    routing = router(x)
    counts = torch.bincount(routing.expert_ids.flatten(), minlength=8)
    update_expert_bias(router.e_score_correction_bias, counts, rate)
    return routing


def moves_before_routing(router, x, rate):
    """Routes with a bias that has seen this batch."""
    balanced_forward(router, x, rate)
    return router(x)


def wrong_way(router, x, rate):
    """Makes favourites of favourites."""
    return balanced_forward(router, x, -rate)


def by_count(chosen_scores, config):
    """Divides by top_k instead of the sum."""
    return chosen_scores / config.top_k * config.route_scale


def without_scale(chosen_scores, config):
    """Forgets route_scale."""
    return repaired_gate_weights(chosen_scores, config) / config.route_scale


# Names that a patient's readings suggest at first sight, with the instrument that refuses them.
SUSPECTED = {
    "a": (("softmax for sigmoid", "scores"), ("bias in the gate", "bias")),
    "b": (("router collapse", "bias"), ("P over the top k only", "reach")),
    "c": (("noise in evaluation", "evaluation"), ("router collapse", "bias")),
    "d": (("gates not normalised", "gates"), ("balance gradient dropped", "gradients")),
    "e": (("P over the top k only", "reach"), ("softmax for sigmoid", "scores")),
    "f": (("gates not normalised", "gates"), ("noise in evaluation", "evaluation")),
    "g": (("bias drifts in evaluation", "evaluation"), ("bias in the gate", "bias")),
    "h": (("balance gradient dropped", "gradients"), ("router collapse", "bias")),
    "x": (("balance gradient dropped", "gradients"), ("P over the top k only", "reach")),
    "i": (("gates not normalised", "gates"), ("bias in the gate", "bias")),
}
WRONG = {
    f"diagnosis_{letter}": {
        **{name: (name, f"the instrument '{instrument}'") for name, instrument in suspected},
        "no disease of the list": ("bias in the gates", "did you mean 'bias in the gate'"),
    }
    for letter, suspected in SUSPECTED.items()
}
WRONG |= {
    "repaired_gates": {
        "bias still in the gates": (biased_gates, "the bias is in the gates"),
        "bias gone from the choice": (without_bias, "two of eight"),
        "not normalised": (not_normalised, "two of eight"),
        "cut off": (detached, "the gates have no gradient: the router cannot learn"),
    },
    "repaired_balance_loss": {
        "P over the chosen": (chosen_only, "your loss pulls at 12 of 48"),
        "no gradient": (lambda s, k: sequence_balance_loss(s.detach(), k, 1), "no gradient"),
        "shares along the tokens": (along_the_tokens, "six tokens"),
        "sum instead of mean": (sum_of_shares, "six tokens"),
        "f without its scale": (lambda s, k: sequence_balance_loss(s, k, 1) * k / 8, "six tokens"),
    },
    "balanced_forward": {
        "still always": (always_moves, "a bias moves by 0.1 although the model only reads"),
        "never": (lambda router, x, rate: router(x), "nobody balances"),
        "looks at the batch first": (moves_before_routing, "decided before the bias moved"),
        "wrong sign": (wrong_way, "but not by"),
    },
    "repaired_gate_weights": {
        "still divides": (lambda s, config: s / s.sum(-1, keepdim=True), "the gradient 0"),
        "never divides": (lambda s, config: s * config.route_scale, "two experts"),
        "divides by top_k": (by_count, "two experts"),
        "forgets the scale": (without_scale, "one expert, route_scale=2.5"),
        "all ones": (lambda s, config: torch.ones_like(s), "the gradient 0"),
    },
}
