"""`route` and `choose`: the router's decisions from its logits, in one compiled pass."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mini_moe.config import ModelConfig
from mini_moe.ops import compiled, reference
from mini_moe.ops.compiled import serves, serves_experts
from mini_moe.ops.reference import Routing

MOST_EXPERTS, MOST_CHOSEN = 1024, 32  # limits of the compiled gate


def route(
    logits: Float[Tensor, "tokens experts"],
    expert_bias: Float[Tensor, "experts"] | None,
    config: ModelConfig,
) -> Routing:
    """`reference.route`; the compiled form computes scores, choice and gates in one pass.

    Compiled on the CPU and on CUDA for fp32 logits of up to 1,024 experts, up to 32 of them chosen
    per token.
    """
    exact = logits.dtype == torch.float32 and (
        expert_bias is None or expert_bias.dtype == torch.float32
    )
    small = logits.shape[-1] <= MOST_EXPERTS and config.top_k <= MOST_CHOSEN
    if not (exact and small and serves_experts(logits, logits, logits.shape[-1])):
        return reference.route(logits, expert_bias, config)
    gates, expert_ids, scores, choice_scores = torch.ops.mini_moe.topk_gate(
        logits, expert_bias, *gate_settings(config)
    )
    return Routing(logits, scores, choice_scores, expert_ids, gates)


def gate_settings(config: ModelConfig) -> tuple:
    """Return the compiled gate's non-tensor arguments, in the operation's order."""
    return (
        *(config.top_k, config.n_expert_groups, config.top_k_groups),
        *(config.group_score == "top2_sum", config.score_function == "softmax"),
        *(config.norm_topk_prob, config.route_scale),
    )


def choose(values: Float[Tensor, "tokens n"], k: int) -> Int[Tensor, "tokens k"]:
    """`reference.choose`: indices of the k largest values; ties go to the lower index."""
    if values.dtype == torch.float32 and serves(values):
        return torch.ops.mini_moe.choose_best(values, k)
    return reference.choose(values, k)


def likeliest(
    logits: Float[Tensor, "rows vocab"],
) -> tuple[Float[Tensor, "rows"], Int[Tensor, "rows"]]:
    """Return the largest logit of each row (NaN if the row has one) and its index."""
    if logits.dtype != torch.float32 or not serves(logits):
        return tuple(logits.max(dim=-1))
    tokens = torch.ops.mini_moe.choose_best.default(logits, 1)
    return logits.gather(1, tokens)[:, 0], tokens[:, 0]


if not compiled.WHY_NOT:
    torch.library.register_fake(
        "mini_moe::choose_best",
        lambda values, k: values.new_empty(len(values), k, dtype=torch.long),
    )
