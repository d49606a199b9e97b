"""Exercises of 07_balance: measures of balance, its losses and its biases, and what leaks."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mini_moe.routing import metrics
from mini_moe.teaching.exercise import Mistake, exercise, value_exercise
from mini_moe.training import balance, losses

load_variation = exercise(
    metrics.load_variation,
    difficulty=1,
    importance=3,
    minutes=4,
    hints=(
        "Standard deviation over the experts, divided by the mean over the experts.",
        "The experts are the last axis: dim=-1. There may be layers before it.",
        "All experts are there, not a sample of them: std(correction=0).",
    ),
)


@load_variation.probe("two of four experts do everything")
def _(student):
    found = student(torch.tensor([0.5, 0.5, 0.0, 0.0]))
    value = float(found)
    if abs(value - 2 / math.sqrt(3)) < 1e-4:
        raise Mistake(
            "you give 1.155: that divides by N − 1, as for a sample; these are all the experts, "
            "so divide by N (correction=0)"
        )
    if abs(value - 0.25) < 1e-4:
        raise Mistake(
            "you give 0.25; the standard deviation is 0.25 and the mean load 0.25, so 1 expected"
        )
    if abs(value - 1) > 1e-4:
        raise Mistake(f"you give {value:.4g}; the deviation is 0.25 and the mean 0.25, so 1")


load_variation.agrees("counts instead of shares", lambda: (torch.tensor([30.0, 10.0, 20.0, 4.0]),))
load_variation.agrees(
    "two layers at once", lambda: (torch.tensor([[0.25, 0.25, 0.25, 0.25], [0.7, 0.1, 0.1, 0.1]]),)
)


TOKENS = round(2 * math.log(256) / 0.04**2 * 256 / 8)

tokens_for_floor = value_exercise(
    "tokens_for_floor",
    TOKENS,
    tolerance=2000,
    explanation=(
        "floor = √(2 ln N / m), so m = 2 ln N / floor² = 2 · 5.545 / 0.0016 = 6,931 choices an "
        "expert; times 256 experts are 1.77 million choices, of which a token makes 8: "
        f"{TOKENS:,} tokens."
    ),
    difficulty=2,
    importance=3,
    minutes=5,
    hints=(
        "Solve floor = √(2 ln N / m) for m, the choices that one expert expects.",
        "All experts together: m · N choices.",
        "A token makes top_k choices.",
    ),
)


@tokens_for_floor.probe()
def _(value):
    m = 2 * math.log(256) / 0.04**2
    known = (
        (m, "these are the choices for one expert; there are 256, and a token makes 8 choices"),
        (m * 256, "these are choices; each token makes 8 of them"),
        (m * 8, "more experts a token means fewer tokens, not more: divide by top_k"),
        (2 * math.log(256) / 0.04 * 32, "the floor stands squared in the denominator"),
        (2 * math.log10(256) / 0.04**2 * 32, "ln is the natural logarithm, 5.545 for 256"),
    )
    for number, words in known:
        if abs(value - number) <= 0.01 * number:
            raise Mistake(f"{value:,.0f}: {words}")


ONE_SIDED = torch.tensor([[0.9, 0.8, 0.1, 0.2]]).repeat(4, 1)  # expert 0 and 1 are liked by all
CHOSEN = torch.tensor([[0, 1]]).repeat(4, 1)


def mixed_scores() -> Tensor:
    """Scores of six tokens, four experts; the same at every call."""
    return torch.rand(6, 4, generator=torch.Generator().manual_seed(7)) * 0.8 + 0.1


def mixed_ids() -> Tensor:
    """What a bias might make them choose: not always the best scores."""
    return torch.tensor([[0, 1], [0, 2], [3, 1], [0, 3], [1, 2], [0, 1]])


switch_loss = exercise(
    losses.switch_loss,
    difficulty=3,
    importance=4,
    minutes=10,
    hints=(
        "f: torch.bincount(expert_ids.flatten(), minlength=experts), divided by all choices.",
        "P: each token's scores divided by their sum over the experts, then the mean over tokens.",
        "The result is experts · Σ f · P. Only P carries a gradient.",
    ),
)


@switch_loss.probe("four tokens that all choose experts 0 and 1 of 4")
def _(student):
    found = float(student(ONE_SIDED.clone(), CHOSEN.clone()))
    if abs(found - 1.7) > 1e-4:
        clue = ""
        if abs(found - 1.7 / 4) < 1e-4:
            clue = ": times the number of experts is missing"
        if abs(found - 3.4) < 1e-4:
            clue = ": f is a share of the choices, and each token makes two"
        raise Mistake(
            f"you give {found:.4g}{clue}; f is ½, ½, 0, 0 and P 0.45, 0.4, 0.05, 0.1, so "
            "4 · Σ f·P is 1.7"
        )


switch_loss.agrees(
    "a bias chose other experts than the scores", lambda: (mixed_scores(), mixed_ids())
)
switch_loss.agrees("an expert that nobody chose", lambda: (mixed_scores(), mixed_ids() % 3))


@switch_loss.probe("the gradient")
def _(student):
    gradients = []
    for loss in (student, losses.switch_loss):
        scores = mixed_scores().requires_grad_()
        result = loss(scores, mixed_ids())
        if not result.requires_grad:
            raise Mistake("your loss has no gradient; P must stay connected to the scores")
        result.backward()
        gradients.append(scores.grad)
    if not torch.allclose(*gradients, atol=1e-5):
        raise Mistake("your gradient differs; only P carries one, f just counts")


def proportional_update(
    bias: Float[Tensor, "experts"], counts: Int[Tensor, "experts"], rate: float
) -> Float[Tensor, "experts"]:
    """The next bias; the package changes it in place."""
    moved = bias.clone()
    balance.update_expert_bias_proportionally(moved, counts, rate)
    return moved


proportional_exercise = exercise(
    proportional_update,
    source=balance.update_expert_bias_proportionally,
    difficulty=2,
    importance=3,
    minutes=4,
    hints=(
        "As with the sign, but keep the size of the error: mean count − count.",
        "Divide the error by the mean count, so that a larger batch does not mean larger steps.",
    ),
)


@proportional_exercise.probe("counts 10, 2, 6, 6 and a rate of 0.3")
def _(student):
    moved = student(torch.zeros(4), torch.tensor([10, 2, 6, 6]), 0.3)
    busiest, idlest = float(moved[0]), float(moved[1])
    if busiest > 0:
        raise Mistake(f"the busiest expert's bias goes to {busiest:+.2g}; it must fall, to −0.2")
    if abs(busiest + 0.3) < 1e-6 and abs(idlest - 0.3) < 1e-6:
        raise Mistake("you move both by 0.3: that is the sign; here the size of the error counts")
    if abs(busiest + 1.2) < 1e-5:
        raise Mistake("the busiest expert's bias goes to −1.2; divide the error by the mean count")
    if abs(busiest + 0.2) > 1e-5:
        raise Mistake(
            f"the busiest expert's bias goes to {busiest:+.3g}; its error is 6 − 10, which is −⅔ "
            "of the mean 6, so −0.2 expected"
        )


@proportional_exercise.probe("ten times the tokens")
def _(student):
    counts = torch.tensor([9, 3, 6, 6])
    few, many = (student(torch.zeros(4), counts * n, 0.1) for n in (1, 10))
    if not torch.allclose(few, many, atol=1e-5):
        raise Mistake(
            f"with ten times the counts the bias moves by {float(many[0]):+.3g} instead of "
            f"{float(few[0]):+.3g}; the share of the mean is the same"
        )


proportional_exercise.agrees(
    "a bias that is not zero",
    lambda: (torch.tensor([0.2, -0.1, 0.0]), torch.tensor([1, 5, 9]), 0.01),
)
proportional_exercise.agrees(
    "counts whose mean is not their median",
    lambda: (torch.zeros(3), torch.tensor([1, 2, 9]), 0.1),
)


ROUNDING = 1e-4  # a matrix product over other rows may round otherwise, by about 1e-6


def leaking_tokens(
    before: Float[Tensor, "seq vocab"], after: Float[Tensor, "seq vocab"], changed: int
) -> list[int]:
    """Positions before `changed` with a logit that moved by more than 1e-4, which is no rounding.

    In a causal model the list is empty, whatever was written at `changed`.
    """
    moved = (before - after).abs().amax(dim=-1)[:changed]
    return (moved > ROUNDING).nonzero().flatten().tolist()


leaks = exercise(
    leaking_tokens,
    difficulty=2,
    importance=5,
    minutes=6,
    hints=(
        "`(before - after).abs().amax(dim=-1)` is, for each token, how far its logits moved.",
        "Only positions below `changed` count: `[:changed]`.",
        "`(moved > 1e-4).nonzero().flatten().tolist()` turns truths into a list of positions.",
    ),
)


def two_runs(*places: int, by: float = 1e-2) -> tuple[Tensor, Tensor]:
    """Logits of six tokens, twice; at each place one of three numbers falls by so much."""
    before = torch.arange(18.0).view(6, 3) / 10
    after = before.clone()
    for place in places:
        after[place, 1] -= by
    return before, after


@leaks.probe("the token at 3 was changed")
def _(student):
    found = list(student(*two_runs(3, 4, 5), 3))
    if 3 in found:
        raise Mistake(f"you give {found}; the changed token and those after it may differ")
    if found:
        raise Mistake(f"you give {found}; no token before 3 differs, so the list is empty")
    before, after = two_runs(0, 2, 3, 5)
    for first, second in ((before, after), (after, before)):
        found = list(student(first, second, 3))
        if not found:
            raise Mistake("you find no leak where one of three logits at 0 and 2 moved by 0.01")
        if found != [0, 2]:
            raise Mistake(f"you give {found}; positions 0 and 2 differ, and come before 3")


@leaks.probe("rounding")
def _(student):
    found = list(student(*two_runs(0, 1, by=2e-6), 5))
    if found:
        raise Mistake(f"you give {found}; a difference of 0.000002 is rounding, not a leak")


@leaks.probe("one logit of 4,096, and rounding in all of them")
def _(student):
    before = torch.zeros(4, 4096)
    after = before.clone()
    after[0, 7] += 2e-4
    after[1] += 5e-5
    if list(student(before, after, 3)) != [0]:
        raise Mistake(
            "only position 0 has a logit that moved by more than 0.0001; "
            "take the largest change, neither sum nor mean"
        )


leaks.agrees("nothing differs", lambda: (*two_runs(), 4))
leaks.agrees("the first token was changed", lambda: (*two_runs(0, 1), 0))
