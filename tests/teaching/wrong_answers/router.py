"""Wrong answers to the exercises of 04_router."""

import dataclasses

import torch

from mini_moe.model.router import Routing, allowed_experts, choose, gate_weights, route


def gates_with_bias(logits, bias, config):
    """The best-known bug: the bias reaches the gates."""
    routing = route(logits, bias, config)
    biased = routing.scores + (0 if bias is None else bias)
    return routing._replace(gates=gate_weights(biased.gather(-1, routing.expert_ids), config))


def bias_on_logits(logits, bias, config):
    """Adds the bias before the sigmoid."""
    return route(logits if bias is None else logits + bias, None, config)


def masks_with_zero(logits, bias, config):
    """Excluded groups get 0 instead of −inf."""
    routing = route(logits, bias, config)
    masked = routing.choice_scores.masked_fill(routing.choice_scores.isinf(), 0.0)
    ids = choose(masked, config.top_k)
    gates = gate_weights(routing.scores.gather(-1, ids), config)
    return Routing(logits, routing.scores, masked, ids, gates)


def without_scale(chosen, config):
    """Forgets route_scale."""
    return gate_weights(chosen, dataclasses.replace(config, route_scale=1.0))


def replaced(function, **changes):
    """The right function under another configuration."""
    return lambda *given: function(*given[:-1], dataclasses.replace(given[-1], **changes))


WRONG = {
    "choose": {
        "the values": (
            lambda values, k: values.sort(descending=True).values[:, :k],
            "torch.float32; torch.int64 expected",
        ),
        "worst first": (lambda values, k: values.argsort(dim=-1)[:, :k], "best first"),
        "one too many": (
            lambda values, k: values.argsort(dim=-1, descending=True)[:, : k + 1],
            "[1, 4]; [1, 3] expected",
        ),
        "the higher index wins a tie": (
            lambda values, k: (
                values.shape[1] - 1 - values.flip(-1).sort(stable=True, descending=True).indices
            )[:, :k],
            "a tie",
        ),
        "absolute values": (
            lambda values, k: values.abs().sort(stable=True, descending=True).indices[:, :k],
            "negative",
        ),
    },
    "gate_weights": {
        "does not normalise": (lambda chosen, config: chosen * config.route_scale, "sum to 4.5"),
        "forgets route_scale": (without_scale, "must sum to route_scale=2.5"),
        "divides by all tokens' sum": (
            lambda chosen, config: chosen / chosen.sum() * config.route_scale,
            "for token 0",
        ),
        "softmax": (
            lambda chosen, config: chosen.softmax(-1) * config.route_scale,
            "at [0, 0]",
        ),
        "always normalises": (
            lambda chosen, config: chosen / chosen.sum(-1, keepdim=True) * config.route_scale,
            "norm_topk_prob=False",
        ),
    },
    "allowed_experts": {
        "allows everything": (
            lambda scores, config: torch.ones_like(scores, dtype=torch.bool),
            "8 experts for token 0",
        ),
        "one group too few": (
            replaced(allowed_experts, top_k_groups=1, top_k=1),
            "2 experts for token 0",
        ),
        "numbers instead of True and False": (
            lambda scores, config: allowed_experts(scores, config).float(),
            "True and False",
        ),
        "always the maximum": (replaced(allowed_experts, group_score="max"), "two best"),
        "always the two best": (
            replaced(allowed_experts, group_score="top2_sum"),
            "worth their best",
        ),
        "the sum of the whole group": (
            lambda scores, config: allowed_experts(
                scores.view(len(scores), config.n_expert_groups, -1)
                .mean(-1, keepdim=True)
                .expand(-1, -1, scores.shape[1] // config.n_expert_groups)
                .flatten(1)
                if config.group_score == "top2_sum"
                else scores,
                config,
            ),
            "only two count",
        ),
    },
    "route": {
        "the bias in the gates": (gates_with_bias, "without the bias"),
        "the bias on the logits": (bias_on_logits, "route_scale · score"),
        "forgets the bias": (lambda logits, bias, config: route(logits, None, config), "a bias"),
        "forgets the groups": (
            replaced(route, n_expert_groups=1, top_k_groups=1),
            "choice_scores",
        ),
        "always a sigmoid": (replaced(route, score_function="sigmoid"), "softmax scores"),
        "masks with zero": (masks_with_zero, "choice_scores"),
        "gates without their sum": (replaced(route, norm_topk_prob=False), "gates"),
    },
}
