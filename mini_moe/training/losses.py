"""What training minimises: next-token loss, multi-token prediction, and balance per sequence."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from jaxtyping import Float, Int
from torch import Tensor

from mini_moe.config import TrainConfig
from mini_moe.model import Routing, Transformer
from mini_moe.model.router import choose


class Losses(NamedTuple):
    """In nats per token; `total` is what gradients are taken of."""

    total: Float[Tensor, ""]
    next_token: Float[Tensor, ""]
    mtp: Float[Tensor, ""]  # mean over MTP modules, unweighted
    balance: Float[Tensor, ""]  # mean over MoE layers; 1 where every sequence is even


def training_losses(
    model: Transformer,
    tokens: Int[Tensor, "batch length"],
    config: TrainConfig,
    routings: list[Routing],
) -> Losses:
    """All losses of rows of seq_len + 1 + n_mtp_layers tokens; fills `routings`, MTP's included.

    total = next_token + λ · mtp + α · Σ over layers of the balance loss.
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
    mtp = torch.stack(further).mean() if further else torch.zeros(())
    balance = torch.stack(
        [sequence_balance_loss(r.scores, model.config.top_k, len(tokens)) for r in routings]
        or [torch.ones(())]
    )
    total = next_token + config.mtp_loss_weight * mtp
    if routings:
        total = total + config.sequence_loss_weight * balance.sum()
    return Losses(total, next_token.detach(), mtp.detach(), balance.mean().detach())


def cross_entropy(
    model: Transformer, hidden: Float[Tensor, "batch seq d"], targets: Int[Tensor, "batch seq"]
) -> Float[Tensor, ""]:
    """−ln p(target), averaged over all tokens."""
    logits = rearrange(model.lm_head(hidden), "batch seq vocab -> (batch seq) vocab")
    return F.cross_entropy(logits, targets.flatten())


def sequence_balance_loss(
    scores: Float[Tensor, "tokens experts"], top_k: int, n_sequences: int
) -> Float[Tensor, ""]:
    """Σ_i f_i · P_i per sequence, averaged: 1 at perfect balance, more where experts are favoured.

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
