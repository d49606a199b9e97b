"""Measure the loss on held-out text, per domain."""

import torch
import torch.nn.functional as F

from mini_moe.device import device_of
from mini_moe.model import Transformer
from mini_moe.text import Corpus, Split, windows

BATCH_TOKENS = 8192  # tokens evaluated at once


def validation_losses(
    model: Transformer, corpus: Corpus, seq_len: int, most_tokens: int = 0
) -> dict[str, float]:
    """Return each domain's loss in nats per token, and their token-weighted mean as "all".

    Every token is predicted once, from at most seq_len tokens before it. Only the first
    `most_tokens` tokens of each domain are read; 0 reads all.
    """
    losses, counts = {}, {}
    for name, split in corpus.validation_by_domain.items():
        if most_tokens and split.n_tokens > most_tokens:
            kept = slice(0, most_tokens)
            n_bytes = round(most_tokens * split.bytes_per_token)
            split = Split(split.tokens[kept], split.domains[kept], n_bytes)
        length = min(seq_len + 1, split.n_tokens)
        losses[name] = split_loss(model, split, length)
        counts[name] = split.n_tokens - 1
    total = sum(losses[name] * counts[name] for name in losses) / sum(counts.values())
    return losses | {"all": total}


@torch.no_grad()
def split_loss(model: Transformer, split: Split, length: int) -> float:
    """Return the mean nats per token over rows of `length` tokens that cover the split.

    Raises: ValueError if the split is shorter than two tokens.
    """
    rows, device = windows(split, length), device_of(model)
    summed = 0.0
    per_batch = max(1, BATCH_TOKENS // length)
    for tokens, counted in zip(
        rows.tokens.split(per_batch), rows.counted.split(per_batch), strict=True
    ):
        there = tokens.to(device)
        logits = model(there[:, :-1]).flatten(0, 1)
        losses = F.cross_entropy(logits, there[:, 1:].flatten(), reduction="none").float().cpu()
        summed += float(losses[counted[:, 1:].flatten()].sum(dtype=torch.float64))
    return summed / int(rows.counted.sum())
