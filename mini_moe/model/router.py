"""Which experts each token goes to, and how much each of them counts."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mini_moe.config import ModelConfig
from mini_moe.ops import linear, topk_gate


class Routing(NamedTuple):
    """One layer's decisions, in the order in which they were made."""

    logits: Float[Tensor, "tokens experts"]
    scores: Float[Tensor, "tokens experts"]  # sigmoid or softmax of the logits
    choice_scores: Float[Tensor, "tokens experts"]  # scores + bias; −inf outside chosen groups
    expert_ids: Int[Tensor, "tokens top_k"]  # best first; the lower id wins a tie
    gates: Float[Tensor, "tokens top_k"]  # weights of the chosen experts, without the bias


class Router(nn.Module):
    """Scores every expert for every token and picks the best; always in fp32.

    Source: DeepSeek-V3, arXiv 2412.19437 §2.1.2, equations 12–16; DeepSeek-V2, arXiv 2405.04434
    §2.2.1–2.2.2 for softmax and the group maximum.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.empty(config.n_routed_experts, config.d_model))
        self.e_score_correction_bias: Tensor | None
        bias = torch.zeros(config.n_routed_experts, dtype=torch.float32)
        self.register_buffer("e_score_correction_bias", bias if config.expert_bias else None)

    def _apply(self, fn: Callable, recurse: bool = True) -> "Router":
        """Follow `model.bfloat16()` and the like, but keep the bias in fp32.

        Balancing moves it by steps that narrower types round away.
        """
        bias = self.e_score_correction_bias
        super()._apply(fn, recurse)
        moved = self.e_score_correction_bias
        if moved is not None and moved.dtype != torch.float32:
            self.e_score_correction_bias = bias.to(moved.device, torch.float32)
        return self

    def forward(self, x: Float[Tensor, "tokens d_model"]) -> Routing:
        with torch.autocast(x.device.type, enabled=False):
            wide = torch.promote_types(self.weight.dtype, torch.float32)
            logits = linear(x, self.weight, wide)
            return decide(logits, self.e_score_correction_bias, self.config)


def decide(
    logits: Float[Tensor, "tokens experts"],
    expert_bias: Float[Tensor, "experts"] | None,
    config: ModelConfig,
) -> Routing:
    """`route`, in one compiled pass where there is one."""
    decided = topk_gate(logits, expert_bias, config)
    if decided is None:
        return route(logits, expert_bias, config)
    gates, expert_ids, scores = decided
    choice_scores = scores.detach()
    if expert_bias is not None:
        choice_scores = choice_scores + expert_bias
    if config.n_expert_groups > 1:
        allowed = allowed_experts(choice_scores, config)
        choice_scores = choice_scores.masked_fill(~allowed, float("-inf"))
    return Routing(logits, scores, choice_scores, expert_ids, gates)


def route(
    logits: Float[Tensor, "tokens experts"],
    expert_bias: Float[Tensor, "experts"] | None,
    config: ModelConfig,
) -> Routing:
    """Logits → scores → + bias → groups → top-k → gates.

    The bias moves the choice and never the weight: gates are made from the bare scores.
    """
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


def choose(values: Float[Tensor, "tokens n"], k: int) -> Int[Tensor, "tokens k"]:
    """Indices of the k largest, best first; of equals the lower index wins, on every machine."""
    return values.sort(dim=-1, descending=True, stable=True).indices[:, :k]


def allowed_experts(
    choice_scores: Float[Tensor, "tokens experts"], config: ModelConfig
) -> Bool[Tensor, "tokens experts"]:
    """True for the experts of each token's `top_k_groups` best groups.

    A group is worth the sum of its two best choice scores (V3) or its best one (V2). In V3 a group
    is a node, so this bounds how many nodes a token's activations travel to.
    Source: arXiv 2412.19437 §2.1.2 "Node-Limited Routing"; arXiv 2405.04434 §2.2.2.
    """
    grouped = rearrange(choice_scores, "tokens (g e) -> tokens g e", g=config.n_expert_groups)
    best = grouped.topk(2 if config.group_score == "top2_sum" else 1, dim=-1).values
    groups = choose(best.sum(dim=-1), config.top_k_groups)
    kept = torch.zeros_like(grouped[..., 0], dtype=torch.bool).scatter(-1, groups, True)
    return repeat(kept, "tokens g -> tokens (g e)", e=grouped.shape[-1])


def gate_weights(
    chosen_scores: Float[Tensor, "tokens top_k"], config: ModelConfig
) -> Float[Tensor, "tokens top_k"]:
    """The chosen scores, divided by their sum where `norm_topk_prob`, times `route_scale`."""
    if config.norm_topk_prob:
        chosen_scores = chosen_scores / (chosen_scores.sum(dim=-1, keepdim=True) + 1e-20)
    return chosen_scores * config.route_scale
