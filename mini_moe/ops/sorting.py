"""Sort (token, choice) pairs by expert, so that every expert sees its tokens as one block."""

from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor


class SortedRows(NamedTuple):
    """Where each of the tokens · top_k rows goes when rows are grouped by expert.

    Row r of the unsorted order is choice r % top_k of token r // top_k.
    """

    order: Int[Tensor, "rows"]  # unsorted row that stands at each sorted place
    place: Int[Tensor, "tokens top_k"]  # sorted place of each unsorted row
    counts: Int[Tensor, "experts"]  # rows per expert
    offsets: Int[Tensor, "experts"]  # sorted place where each expert's rows end


def sort_rows(expert_ids: Int[Tensor, "tokens top_k"], n_experts: int) -> SortedRows:
    """Group rows by expert; within an expert they keep the order of the tokens.

    Counting the rows per expert and adding the counts up gives each expert its block; a stable
    sort fills the blocks, so the result is the same on every run.

    Raises: ValueError when an id is negative or not below n_experts.
    """
    flat = expert_ids.reshape(-1)
    if flat.numel() and not 0 <= int(flat.min()) <= int(flat.max()) < n_experts:
        raise ValueError(
            f"expert_ids must lie in [0, {n_experts}), got {int(flat.min())} to {int(flat.max())}"
        )
    order = torch.argsort(flat, stable=True)
    place = torch.empty_like(order)
    place[order] = torch.arange(flat.numel(), device=flat.device)
    counts = torch.bincount(flat, minlength=n_experts)
    return SortedRows(order, place.view(expert_ids.shape), counts, counts.cumsum(0))
