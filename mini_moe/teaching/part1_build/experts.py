"""Exercises of 03_experts: from a loop over experts to rows sorted by expert."""

import torch
from jaxtyping import Int
from torch import Tensor

from mini_moe.ops import reference, sorting
from mini_moe.teaching.exercise import Mistake, exercise

CHOICES = torch.tensor([[2, 0], [0, 3], [2, 3], [3, 2]])  # nobody chooses expert 1


def expert_blocks(
    expert_ids: Int[Tensor, "tokens top_k"], n_experts: int
) -> tuple[Int[Tensor, "experts"], Int[Tensor, "experts_plus_1"]]:
    """Rows per expert, and where each expert's block begins; the last offset is the end."""
    rows = sorting.sort_rows(expert_ids, n_experts)
    return rows.counts, rows.offsets


blocks = exercise(
    expert_blocks,
    source=sorting.sort_rows,
    difficulty=1,
    importance=4,
    minutes=5,
    hints=(
        "`torch.bincount(expert_ids.flatten(), minlength=n_experts)` counts the rows.",
        "A block begins where all rows of the experts before it end: a running sum, after a 0.",
    ),
)


@blocks.probe("four tokens, four experts, nobody chooses expert 1")
def _(student):
    counts, offsets = student(CHOICES, 4)
    if len(counts) != 4:
        raise Mistake(f"you give {len(counts)} counts; every one of the 4 experts needs one")
    if len(offsets) != 5 or int(offsets[0]):
        raise Mistake(f"your offsets are {offsets.tolist()}; 5 numbers expected, from 0 to the end")
    if int(offsets[-1]) != CHOICES.numel():
        raise Mistake(
            f"your last block ends at {int(offsets[-1])}; all {CHOICES.numel()} rows end there"
        )


blocks.agrees("four tokens, four experts", lambda: (CHOICES.clone(), 4))
blocks.agrees("six experts, the last two idle", lambda: (CHOICES.clone(), 6))

sort_rows = exercise(
    sorting.sort_rows,
    difficulty=3,
    importance=4,
    minutes=10,
    hints=(
        "`torch.argsort(flat_ids, stable=True)` puts rows with the same expert side by side.",
        "Row r belongs to token r // top_k, so the sorted rows' tokens are order // top_k.",
        "`place` undoes the order: place[order] = 0, 1, 2, …; give it the shape of expert_ids.",
        "`counts` is a bincount with minlength=n_experts, `offsets` a 0 and its running sum.",
    ),
)


@sort_rows.probe("four tokens, four experts")
def _(student):
    token, place = student(CHOICES, 4)[:2]
    if sorted(place.flatten().tolist()) != list(range(CHOICES.numel())):
        raise Mistake(f"`place` is {place.tolist()}; every number below 8 stands there once")
    for row, choices in enumerate(place.tolist()):
        found = token[torch.tensor(choices)].tolist()
        if found != [row, row]:
            raise Mistake(f"place says where token {row}'s rows went; tokens {found} are there")


sort_rows.agrees("four tokens, four experts", lambda: (CHOICES.clone(), 4))
sort_rows.agrees("equal ids keep the tokens' order", lambda: (torch.ones(40, 2).long(), 3))


def small_experts(tokens: int = 5, experts: int = 3, top_k: int = 2) -> tuple[Tensor, ...]:
    """x, expert_ids, gates, gate_up_proj, down_proj: the same random numbers at every call."""
    draw = torch.Generator().manual_seed(3)
    scores = torch.rand(tokens, experts, generator=draw)
    gates, expert_ids = scores.topk(top_k)
    return (
        torch.randn(tokens, 4, generator=draw),
        expert_ids,
        gates,
        torch.randn(experts, 2, 6, 4, generator=draw),
        torch.randn(experts, 4, 6, generator=draw),
    )


moe_experts = exercise(
    reference.moe_experts,
    difficulty=4,
    importance=5,
    minutes=15,
    hints=(
        "Loop over the experts; each time find the tokens that chose this one.",
        "An expert is W_down (silu(W_gate x) · W_up x); gate_up_proj[e, 0] is W_gate, [e, 1] W_up.",
        "Multiply an expert's output by the token's gate for it, and add it to the token's result.",
    ),
)
moe_experts.agrees("one expert, gate 1", lambda: (*small_experts(2, 1, 1)[:2], torch.ones(2, 1),
                                                  *small_experts(2, 1, 1)[3:]))  # fmt: skip
moe_experts.agrees("five tokens, three experts, two choices", small_experts)
moe_experts.agrees("six experts of which some stay idle", lambda: small_experts(2, 6, 2))
