"""Exercises of 00_tour: reading the load, and what 37 of 671 billion means."""

import torch

from mini_moe.routing import metrics
from mini_moe.teaching.exercise import Mistake, exercise, value_exercise

FOUR_TOKENS = torch.tensor([[0, 1], [0, 2], [0, 1], [0, 4]])  # expert 3 is chosen by nobody

expert_load = exercise(
    metrics.expert_load,
    difficulty=1,
    importance=5,
    minutes=5,
    hints=(
        "Count how often each expert's number occurs; `expert_ids.flatten()` forgets who chose it.",
        "`torch.bincount(numbers, minlength=n_experts)` counts, also the experts nobody chose.",
        "Divide the counts by the number of choices, which is tokens · top_k.",
    ),
)


@expert_load.probe("four tokens with two choices each")
def _(student):
    load = student(FOUR_TOKENS, 5)
    if len(load) != 5:
        raise Mistake(f"you give {len(load)} values; every one of the 5 experts needs one")
    total = float(load.sum())
    if abs(total - 1) > 1e-5:
        raise Mistake(f"your shares sum to {total:.4g}; all choices together are 1")


expert_load.agrees("four tokens with two choices each", lambda: (FOUR_TOKENS.clone(), 5))
expert_load.agrees("the last two experts chosen by nobody", lambda: (FOUR_TOKENS.clone(), 7))


max_violation = exercise(
    metrics.max_violation,
    difficulty=1,
    importance=4,
    minutes=3,
    hints=(
        "How far is the largest load above the mean load?",
        "Measure that distance in units of the mean: (max − mean) / mean.",
    ),
)
max_violation.agrees("an even load", lambda: (torch.full((4,), 0.25),))
max_violation.agrees("one expert has half of everything", lambda: (torch.tensor([0.5, 0.3, 0.2]),))
max_violation.agrees("an idle expert", lambda: (torch.tensor([0.4, 0.35, 0.25, 0.0]),))
max_violation.agrees("counts instead of shares", lambda: (torch.tensor([6.0, 1.0, 2.0]),))


noise_floor = exercise(
    metrics.noise_floor,
    difficulty=2,
    importance=3,
    minutes=5,
    hints=(
        "An expert that expects m tokens gets m ± √m of them: relative to m that is ± 1/√m.",
        "The largest of N such deviations is about √(2 ln N) times as big as one of them.",
    ),
)
noise_floor.agrees("16 experts, 512 tokens each", lambda: (16, 512.0))
noise_floor.agrees("256 experts, 64 tokens each", lambda: (256, 64.0))


active_percent = value_exercise(
    "active_percent",
    5.6,
    tolerance=0.05,
    explanation="37,552,297,472 of 671,026,419,200 parameters: 100 · 37.55 / 671.03 = 5.6 percent.",
    difficulty=1,
    importance=5,
    minutes=2,
    hints=("Divide the active by the total parameters.", "In percent: multiply by 100."),
)


@active_percent.probe()
def _(value):
    if abs(value - 0.056) < 0.001:
        raise Mistake(f"{value:.3g} is the fraction; as a percentage that is {100 * value:.2g}")
    if abs(value - 94.4) < 0.1:
        raise Mistake(f"{value:.3g} percent is the part that rests")
    if abs(value - 5.51) < 0.02:
        raise Mistake(f"{value:.3g} comes from the rounded 37 billion; take the exact counts")


memory_gigabytes = value_exercise(
    "memory_gigabytes",
    671,
    tolerance=1,
    explanation=(
        "Any expert may be chosen by the next token, so all 671 billion parameters are kept at "
        "hand; at one byte each that is 671 GB. The 37 billion active ones set the arithmetic."
    ),
    difficulty=1,
    importance=5,
    minutes=3,
    hints=(
        "Which experts will the next token choose? Nobody knows before it comes.",
        "So every parameter has to be there. One byte each: billions of parameters are gigabytes.",
    ),
)


@memory_gigabytes.probe()
def _(value):
    if 36 < value < 39:
        raise Mistake(
            f"{value:.3g} GB would hold the parameters of one token; "
            "the next token chooses other experts"
        )
    if 1340 < value < 1345:
        raise Mistake(f"{value:,.4g} GB would be two bytes a parameter; here it is one")
