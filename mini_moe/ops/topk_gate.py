"""The router's decisions after its logits, where compiled kernels make them."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mini_moe.config import ModelConfig
from mini_moe.ops import compiled
from mini_moe.ops.compiled import serves, serves_experts

MOST_EXPERTS, MOST_CHOSEN = 1024, 32


def topk_gate(
    logits: Float[Tensor, "tokens experts"],
    expert_bias: Float[Tensor, "experts"] | None,
    config: ModelConfig,
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Gates and ids [tokens, top_k] and scores [tokens, experts]; None where `route` must do it.

    One pass over the logits: scores, bias, groups, the best, their weights, on the CPU or on CUDA.
    """
    fits = logits.dtype == torch.float32 and serves_experts(logits, logits, logits.shape[-1])
    fits = fits and logits.shape[-1] <= MOST_EXPERTS and config.top_k <= MOST_CHOSEN
    if not fits or (expert_bias is not None and expert_bias.dtype != torch.float32):
        return None
    return torch.ops.mini_moe.topk_gate(logits, expert_bias, *gate_settings(config))


def gate_settings(config: ModelConfig) -> tuple:
    """What the compiled gate needs to know beside tensors, in the operation's order."""
    return (
        *(config.top_k, config.n_expert_groups, config.top_k_groups),
        *(config.group_score == "top2_sum", config.score_function == "softmax"),
        *(config.norm_topk_prob, config.route_scale),
    )


def choose(values: Float[Tensor, "tokens n"], k: int) -> Int[Tensor, "tokens k"]:
    """Indices of the k largest, best first; of equals the lower index wins, on every machine."""
    if values.dtype == torch.float32 and serves(values):
        return torch.ops.mini_moe.choose_best(values, k)
    return values.sort(dim=-1, descending=True, stable=True).indices[:, :k]


if not compiled.WHY_NOT:
    torch.library.register_fake(
        "mini_moe::choose_best",
        lambda values, k: values.new_empty(len(values), k, dtype=torch.long),
    )
