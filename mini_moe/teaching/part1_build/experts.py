"""Exercises of 03_experts: a loop over experts, rows sorted by expert, and their mixing."""

import torch
from jaxtyping import Int
from torch import Tensor

from mini_moe.ops import reference, sorted_experts, sorting
from mini_moe.teaching.exercise import Mistake, exercise, value_exercise

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


gather_sum = exercise(
    sorted_experts.gather_sum,
    difficulty=2,
    importance=5,
    minutes=8,
    hints=(
        "`values[place]` has the shape [tokens, top_k, d]: every token's rows, fetched.",
        "`weights[..., None]` has the shape [tokens, top_k, 1] and multiplies them.",
        "Sum over top_k, which is dimension 1 of the three.",
    ),
)


def some_rows() -> tuple[Tensor, Tensor, Tensor]:
    """Values [8, 3] of sorted rows, the places of four tokens' two rows each, and gates."""
    draw = torch.Generator().manual_seed(4)
    place = sorting.sort_rows(CHOICES, 4).place
    return torch.randn(8, 3, generator=draw), place, torch.rand(4, 2, generator=draw)


@gather_sum.probe("a token with the gates 0.25 and 0.75")
def _(student):
    place, weights = torch.tensor([[1, 0]]), torch.tensor([[0.25, 0.75]])
    found = student(torch.tensor([[100.0], [200.0]]), place, weights)
    if found.shape != (1, 1):
        raise Mistake(f"your result has the shape {list(found.shape)}; [tokens, d] = [1, 1]")
    known = {
        300: "the gates are missing",
        175: "each gate went to the other row; weights[t, k] belongs to place[t, k]",
        62.5: "that is a mean; the gates already share out, so add",
        150: "that is the plain mean, without the gates",
    }
    value = round(float(found), 3)
    if value != 125:
        reason = f" ({known[value]})" if value in known else ""
        raise Mistake(f"0.25 · 200 + 0.75 · 100 is 125, your result is {value:g}{reason}")


gather_sum.agrees("four tokens, two choices", some_rows)
gather_sum.agrees("two tokens, three choices", lambda: (
    some_rows()[0], torch.tensor([[7, 0, 3], [2, 2, 5]]), some_rows()[2].view(-1)[:6].view(2, 3),
))  # fmt: skip

layer_parameters = value_exercise(
    "layer_parameters",
    396_361_728,
    explanation=(
        "One expert holds 3 · 7168 · 2048 = 44,040,192 parameters; 8 chosen and 1 shared expert "
        "work on a token: 9 · 44,040,192 = 396,361,728."
    ),
    difficulty=2,
    importance=4,
    minutes=4,
    hints=(
        "An expert is three matrices: W_gate and W_up [2048, 7168], W_down [7168, 2048].",
        "Nine experts work on a token: 8 are chosen and 1 is shared by all.",
    ),
)


@layer_parameters.probe()
def _(value):
    if value == 44_040_192:
        raise Mistake("44,040,192 is one expert; how many work on a token?")
    if value == 352_321_536:
        raise Mistake("those are the 8 chosen ones; the shared expert works too")
    if value == 264_241_152:
        raise Mistake("that is two matrices an expert; SwiGLU has three")
    if value == 11_318_329_344:
        raise Mistake("those are all 257 experts of the layer; most of them rest")
