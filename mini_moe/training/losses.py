"""What training minimises: next-token loss, multi-token prediction, and balance per sequence."""

from typing import NamedTuple

import torch
from einops import rearrange, reduce
from jaxtyping import Float, Int
from torch import Tensor

from mini_moe.config import TrainConfig
from mini_moe.model import Routing, Transformer
from mini_moe.ops import choose
from mini_moe.ops import cross_entropy as mean_cross_entropy


class Losses(NamedTuple):
    """`total` is what gets differentiated; the others are unweighted and carry no gradient."""

    total: Float[Tensor, ""]  # nats per token, like next_token and mtp
    next_token: Float[Tensor, ""]
    mtp: Float[Tensor, ""]  # mean over MTP modules
    balance: Float[Tensor, ""]  # mean over MoE layers; 1 where the load is even
    z: Float[Tensor, ""]  # mean over MoE layers


def training_losses(
    model: Transformer,
    tokens: Int[Tensor, "batch length"],
    config: TrainConfig,
    routings: list[Routing],
) -> Losses:
    """Compute all losses on rows of seq_len + 1 + n_mtp_layers tokens; append to `routings`.

    total = next_token + λ · mtp + Σ over layers of (α · balance loss + weight · z-loss).
    Source: DeepSeek-V3, arXiv 2412.19437, equations 17–20 and 24–25.
    """
    depths = model.config.n_mtp_layers
    seq = tokens.shape[1] - 1 - depths
    hidden = model.hidden(tokens[:, :seq], routings=routings)
    next_token = cross_entropy(model, hidden, tokens[:, 1 : seq + 1])
    further = []
    for depth in range(depths):
        first = depth + 1
        hidden = model.mtp_hidden(hidden, tokens[:, first : first + seq], depth, routings)
        further.append(cross_entropy(model, hidden, tokens[:, first + 1 : first + 1 + seq]))
    mtp = torch.stack(further).mean() if further else next_token.new_zeros(())
    total = next_token + config.mtp_loss_weight * mtp
    if not routings:
        even, none = next_token.new_ones(()), next_token.new_zeros(())
        return Losses(total, next_token.detach(), mtp.detach(), even, none)
    balance = torch.stack([balance_loss(r, config, len(tokens)) for r in routings])
    z = torch.stack([z_loss(r.logits) for r in routings])
    total = total + config.balance_loss_weight * balance.sum()
    if config.z_loss_weight:
        total = total + config.z_loss_weight * z.sum()
    return Losses(
        total, next_token.detach(), mtp.detach(), balance.mean().detach(), z.mean().detach()
    )


def cross_entropy(
    model: Transformer, hidden: Float[Tensor, "batch seq d"], targets: Int[Tensor, "batch seq"]
) -> Float[Tensor, ""]:
    """−ln p(target), averaged over all tokens."""
    logits = rearrange(model.lm_head(hidden), "batch seq vocab -> (batch seq) vocab")
    return mean_cross_entropy(logits, targets.flatten())


def balance_loss(routing: Routing, config: TrainConfig, n_sequences: int) -> Float[Tensor, ""]:
    """Return one layer's balance loss, of the kind in `config.balance_loss`: 1 if the load is even.

    "sequence" balances every sequence and "batch" the batch as a whole, both counting what the
    scores alone would choose; "switch" balances the batch, counting the actual choices, which
    include the bias.
    Source: arXiv 2412.19437 §2.1.2 (sequence) and §4.5.3 (batch); arXiv 2101.03961 §2.2 (switch).
    """
    if config.balance_loss == "switch":
        return switch_loss(routing.scores, routing.expert_ids)
    sequences = n_sequences if config.balance_loss == "sequence" else 1
    return sequence_balance_loss(routing.scores, routing.expert_ids.shape[-1], sequences)


def sequence_balance_loss(
    scores: Float[Tensor, "tokens experts"], top_k: int, n_sequences: int
) -> Float[Tensor, ""]:
    """Σ_i f_i · P_i per sequence, averaged: 1 at perfect balance, more if experts are favoured.

    f_i = experts / (top_k · seq) · how often expert i is among the top_k by score, the bias left
    out; P_i = mean over the sequence of its share of the scores.
    Source: DeepSeek-V3, arXiv 2412.19437 §2.1.2, equations 17–20.
    """
    experts = scores.shape[-1]
    chosen = torch.zeros_like(scores).scatter(-1, choose(scores.detach(), top_k), 1.0)
    share = scores / scores.sum(dim=-1, keepdim=True)
    per_sequence = "(batch seq) experts -> batch experts"
    frequency = reduce(chosen, per_sequence, "mean", batch=n_sequences) * (experts / top_k)
    probability = reduce(share, per_sequence, "mean", batch=n_sequences)
    return (frequency * probability).sum(dim=-1).mean()


def switch_loss(
    scores: Float[Tensor, "tokens experts"], expert_ids: Int[Tensor, "tokens top_k"]
) -> Float[Tensor, ""]:
    """experts · Σ_i f_i · P_i: 1 if choices or scores are even, up to experts / top_k.

    f_i = share of all choices that went to expert i, P_i = mean share of the scores it got.
    Source: Fedus et al., arXiv 2101.03961 §2.2, equations 4–6, there for one choice per token.
    """
    experts = scores.shape[-1]
    counts = torch.bincount(expert_ids.flatten(), minlength=experts)
    frequency = counts / expert_ids.numel()
    probability = (scores / scores.sum(dim=-1, keepdim=True)).mean(dim=0)
    return experts * (frequency * probability).sum()


def z_loss(logits: Float[Tensor, "tokens experts"]) -> Float[Tensor, ""]:
    """Mean over tokens of (ln Σ_i exp logit_i)²: keeps the router's logits small.

    Source: Zoph et al. (ST-MoE), arXiv 2202.08906 §3.3, equation 5.
    """
    return logits.logsumexp(dim=-1).square().mean()
