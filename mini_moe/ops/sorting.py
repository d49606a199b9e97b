"""Sort (token, choice) pairs by expert, so that every expert sees its tokens as one block."""

from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor


class SortedRows(NamedTuple):
    """The tokens · top_k rows grouped by expert, one block of rows per expert."""

    token: Int[Tensor, "rows"]  # token that each sorted row belongs to; 0 for padding
    place: Int[Tensor, "tokens top_k"]  # sorted row of each (token, choice)
    counts: Int[Tensor, "experts"]  # rows per expert, without padding
    offsets: Int[Tensor, "experts_plus_1"]  # start of each block; the last entry is the end


def sort_rows(
    expert_ids: Int[Tensor, "tokens top_k"], n_experts: int, multiple: int = 1
) -> SortedRows:
    """Group rows by expert; within an expert, rows stay in token order.

    The cumulative sum of the rows per expert gives each expert its block; a stable sort fills the
    blocks, so the result is the same on every run. Block sizes are rounded up to a multiple of
    `multiple`.

    Raises: ValueError if an id is negative or not below n_experts.
    """
    check_ids(expert_ids, n_experts)
    flat = expert_ids.reshape(-1)
    counts = torch.bincount(flat, minlength=n_experts)
    offsets = torch.zeros(n_experts + 1, dtype=torch.long, device=flat.device)
    offsets[1:] = (-(-counts // multiple) * multiple).cumsum(0)
    unpadded_start = counts.cumsum(0) - counts
    order = torch.argsort(flat, stable=True)
    rank = torch.arange(flat.numel(), device=flat.device)
    place = torch.empty_like(order)
    place[order] = rank + (offsets[:-1] - unpadded_start)[flat[order]]
    token = torch.zeros(int(offsets[-1]), dtype=torch.long, device=flat.device)
    token[place] = rank // expert_ids.shape[1]
    return SortedRows(token, place.view(expert_ids.shape), counts, offsets)


def check_ids(expert_ids: Int[Tensor, "tokens top_k"], n_experts: int) -> None:
    """Raise ValueError if an id is negative or not below n_experts."""
    if expert_ids.is_meta or not expert_ids.numel() or torch.compiler.is_compiling():
        return
    low, high = int(expert_ids.min()), int(expert_ids.max())
    if low < 0 or high >= n_experts:
        raise ValueError(f"expert_ids must lie in [0, {n_experts}), got {low} to {high}")
