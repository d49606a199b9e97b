"""Copies of code from model/router.py and training/losses.py, each with one thing wrong.

They are copies on purpose: in real code, such a bug looks like a copy with one changed line. A
test counts the lines in which each copy differs from the original.
"""

import torch
from einops import reduce
from jaxtyping import Float
from torch import Tensor

from mini_moe.config import ModelConfig
from mini_moe.model import Routing
from mini_moe.model.router import allowed_experts, choose, gate_weights
from mini_moe.training.balance import update_expert_bias

GAMMA = 0.003  # update rate of the bias, in the clinic's training and in `route_that_balances`


def route_with_biased_gates(
    logits: Float[Tensor, "tokens experts"],
    expert_bias: Float[Tensor, "experts"] | None,
    config: ModelConfig,
) -> Routing:
    """Compute the gates from the biased scores."""
    scores = logits.sigmoid() if config.score_function == "sigmoid" else logits.softmax(dim=-1)
    choice_scores = scores
    if expert_bias is not None:
        choice_scores = choice_scores + expert_bias
    if config.n_expert_groups > 1:
        allowed = allowed_experts(choice_scores, config)
        choice_scores = choice_scores.masked_fill(~allowed, float("-inf"))
    expert_ids = choose(choice_scores, config.top_k)
    gates = gate_weights(choice_scores.gather(-1, expert_ids), config)
    return Routing(logits, scores, choice_scores, expert_ids, gates)


def route_with_noise(
    logits: Float[Tensor, "tokens experts"],
    expert_bias: Float[Tensor, "experts"] | None,
    config: ModelConfig,
) -> Routing:
    """Add noise to the logits, in training and in evaluation."""
    logits = logits + 0.5 * torch.randn_like(logits)
    scores = logits.sigmoid() if config.score_function == "sigmoid" else logits.softmax(dim=-1)
    choice_scores = scores.detach()
    if expert_bias is not None:
        choice_scores = choice_scores + expert_bias
    if config.n_expert_groups > 1:
        allowed = allowed_experts(choice_scores, config)
        choice_scores = choice_scores.masked_fill(~allowed, float("-inf"))
    expert_ids = choose(choice_scores, config.top_k)
    gates = gate_weights(scores.gather(-1, expert_ids), config)
    return Routing(logits, scores, choice_scores, expert_ids, gates)


def route_that_balances(
    logits: Float[Tensor, "tokens experts"],
    expert_bias: Float[Tensor, "experts"] | None,
    config: ModelConfig,
) -> Routing:
    """Update the bias on every call."""
    scores = logits.sigmoid() if config.score_function == "sigmoid" else logits.softmax(dim=-1)
    choice_scores = scores.detach()
    if expert_bias is not None:
        choice_scores = choice_scores + expert_bias
    if config.n_expert_groups > 1:
        allowed = allowed_experts(choice_scores, config)
        choice_scores = choice_scores.masked_fill(~allowed, float("-inf"))
    expert_ids = choose(choice_scores, config.top_k)
    counts = torch.bincount(expert_ids.flatten(), minlength=config.n_routed_experts)
    update_expert_bias(expert_bias, counts, GAMMA)
    gates = gate_weights(scores.gather(-1, expert_ids), config)
    return Routing(logits, scores, choice_scores, expert_ids, gates)


def balance_loss_with_two_softmaxes(
    scores: Float[Tensor, "tokens experts"], top_k: int, n_sequences: int
) -> Float[Tensor, ""]:
    """Compute shares by a softmax of what are already scores."""
    experts = scores.shape[-1]
    chosen = torch.zeros_like(scores).scatter(-1, choose(scores.detach(), top_k), 1.0)
    share = scores.softmax(dim=-1)
    per_sequence = "(batch seq) experts -> batch experts"
    frequency = reduce(chosen, per_sequence, "mean", batch=n_sequences) * (experts / top_k)
    probability = reduce(share, per_sequence, "mean", batch=n_sequences)
    return (frequency * probability).sum(dim=-1).mean()


def balance_loss_of_the_chosen(
    scores: Float[Tensor, "tokens experts"], top_k: int, n_sequences: int
) -> Float[Tensor, ""]:
    """Compute shares among the chosen experts only."""
    experts = scores.shape[-1]
    chosen = torch.zeros_like(scores).scatter(-1, choose(scores.detach(), top_k), 1.0)
    share = scores * chosen / (scores * chosen).sum(dim=-1, keepdim=True)
    per_sequence = "(batch seq) experts -> batch experts"
    frequency = reduce(chosen, per_sequence, "mean", batch=n_sequences) * (experts / top_k)
    probability = reduce(share, per_sequence, "mean", batch=n_sequences)
    return (frequency * probability).sum(dim=-1).mean()


def balance_loss_cut_off(
    scores: Float[Tensor, "tokens experts"], top_k: int, n_sequences: int
) -> Float[Tensor, ""]:
    """Compute shares without their gradient."""
    experts = scores.shape[-1]
    chosen = torch.zeros_like(scores).scatter(-1, choose(scores.detach(), top_k), 1.0)
    share = (scores / scores.sum(dim=-1, keepdim=True)).detach()
    per_sequence = "(batch seq) experts -> batch experts"
    frequency = reduce(chosen, per_sequence, "mean", batch=n_sequences) * (experts / top_k)
    probability = reduce(share, per_sequence, "mean", batch=n_sequences)
    return (frequency * probability).sum(dim=-1).mean()
