"""Exercises of 17_long_context: turns, YaRN's frequencies and temperature, shares of few trials."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from mini_moe.experiments.statistics import share_interval
from mini_moe.model import rope
from mini_moe.teaching.exercise import Mistake, exercise, value_exercise


def turns_within(frequencies: Float[Tensor, "pairs"], length: int) -> Float[Tensor, "pairs"]:
    """How many times each pair has gone round after `length` positions; a turn is 2π radians."""
    return length * frequencies / (2 * math.pi)


turns = exercise(
    turns_within,
    difficulty=1,
    importance=5,
    minutes=4,
    hints=(
        "A frequency is in radians a position. How many radians are `length` positions?",
        "A whole turn has 2π = 6.28 radians.",
        "`length * frequencies / (2 * math.pi)`",
    ),
)


@turns.probe("one radian a position, 628 positions")
def _(student):
    given = torch.tensor([1.0, 0.1])
    found = student(given, 628)
    if not isinstance(found, Tensor) or found.shape != given.shape:
        raise Mistake("one number for each frequency expected, as a tensor [pairs]")
    fast, slow = found.tolist()
    if abs(fast - 628) < 1:
        raise Mistake("you give 628: that is radians; a turn has 2π of them")
    if abs(fast - 628 / 360) < 0.01:
        raise Mistake(f"you give {fast:.3g}: 360 would be degrees, frequencies are in radians")
    if abs(fast - 628 / math.pi) < 1:
        raise Mistake(f"you give {fast:.3g}: π radians are only half a turn")
    if abs(fast - 6.283) < 0.01 or slow > fast:
        raise Mistake(f"you give {fast:.3g} and {slow:.3g}: the faster pair must turn more often")
    if fast == int(fast):
        raise Mistake(f"you give {fast:g}: keep the part of a turn that was begun; don't round")


turns.agrees("four pairs, 256 positions", lambda: (rope.rope_frequencies(8, 10_000.0), 256))
turns.agrees("theta 100, 2,048 positions", lambda: (rope.rope_frequencies(8, 100.0), 2048))


unfinished = value_exercise(
    "unfinished_pairs",
    9,
    explanation=(
        "Pair i turns 10,000^(−i / 32) radians a position, so 4,096 positions are less than 2π "
        "radians where i is above 32 · ln(4096 / 2π) / ln 10,000 = 22.5: pairs 23 to 31, 9 of 32."
    ),
    difficulty=2,
    importance=4,
    minutes=6,
    hints=(
        "`rope_frequencies(64, 10_000.0)` gives the 32 frequencies; you have `turns_within`.",
        "Count the pairs whose turns within 4,096 positions are below 1.",
        "`int((turns_within(rope_frequencies(64, 10_000.0), 4096) < 1).sum())`",
    ),
)


@unfinished.probe()
def _(value):
    slips = {
        23: "23 pairs *have* gone round; how many have not?",
        22: "22 is the last pair that went round (they are counted from 0)",
        22.5: "that is where the line lies; count the pairs behind it",
        18: "18 channels make 9 pairs: two channels turn together",
        3: "3 pairs stay below one *radian*; a turn has 6.28",
        8: "8 of the 16 would be right for 32 channels; V3 rotates 64",
        4: "4 is our small model; here it is V3: 64 channels and 4,096 tokens",
        0: "at 131,072 tokens fewer are left, but V3 was *trained* at 4,096",
    }
    if value in slips:
        raise Mistake(slips[value])


def by_parts(
    frequencies: Float[Tensor, "pairs"], low: int, high: int, factor: float
) -> Float[Tensor, "pairs"]:
    """YaRN's frequencies: kept up to pair `low`, divided by `factor` from pair `high` on.

    Between them a ramp from 0 to 1 says which share of the divided frequency is taken.
    Raises: ValueError where high is not above low.
    """
    if high <= low:
        raise ValueError(f"high={high}: above low={low} expected")
    ramp = ((torch.arange(len(frequencies)) - low) / (high - low)).clamp(0, 1)
    return frequencies * (1 - ramp) + frequencies / factor * ramp


parts = exercise(
    by_parts,
    difficulty=3,
    importance=5,
    minutes=10,
    hints=(
        "First the ramp, one number a pair: (i − low) / (high − low), held between 0 and 1.",
        "`torch.arange(len(frequencies))` gives every i, `.clamp(0, 1)` cuts both ends off.",
        "`frequencies * (1 - ramp) + frequencies / factor * ramp`",
    ),
)


@parts.probe("six pairs of frequency 1, low 1, high 4, factor 10")
def _(student):
    found = student(torch.ones(6), 1, 4, 10.0)
    if not isinstance(found, Tensor) or found.shape != (6,):
        raise Mistake("one frequency for each of the 6 pairs expected")
    first, last = found[1].item(), found[-1].item()
    if abs(found[2].item() - 1 / (2 / 3 + 10 / 3)) < 1e-3:
        raise Mistake("pair 2 is 0.25: you mix wavelengths; mix the frequencies")
    if all(abs(f - 0.1) < 1e-4 for f in found.tolist()):
        raise Mistake("every pair is divided, the fast ones too; that is position interpolation")
    if abs(first - 0.1) < 1e-3 and abs(last - 1) < 1e-3:
        raise Mistake("you divide the fast pairs and keep the slow ones; it is the other way round")
    if last > 1:
        raise Mistake(f"pair 5 turns at {last:.3g}: multiplied; a longer text wants slower hands")
    if last < 0.1 - 1e-4:
        raise Mistake(
            f"pair 5 turns at {last:.3g}, below 1 / 10: hold the ramp between 0 and 1 (clamp)"
        )
    if abs(found[0].item() - 1) > 1e-4:
        raise Mistake(f"pair 0 turns at {found[0].item():.3g}; up to pair `low` nothing changes")
    if abs(found[2].item() - 1) < 1e-4 or abs(found[2].item() - 0.1) < 1e-4:
        raise Mistake(f"pair 2 turns at {found[2].item():.3g}; between low and high lies a ramp")
    if abs(found[4].item() - 0.1) > 1e-4:
        raise Mistake(f"pair 4 = high turns at {found[4].item():.3g}; from there on it is 0.1")


parts.agrees("a small model", lambda: (rope.rope_frequencies(16, 50.0), 1, 6, 8.0))
parts.agrees("DeepSeek-V3's ramp", lambda: (rope.rope_frequencies(64, 20.0), 10, 23, 40.0))
parts.agrees("factor 1 changes nothing", lambda: (rope.rope_frequencies(8, 10.0), 0, 3, 1.0))


def sharpened_scale(width: int, factor: float) -> float:
    """What scores are multiplied with: 1 / √width, times (0.1 · ln factor + 1) squared."""
    return width**-0.5 * (0.1 * math.log(factor) + 1) ** 2


scale = exercise(
    sharpened_scale,
    difficulty=2,
    importance=4,
    minutes=5,
    hints=(
        "Without YaRN it is 1 / √width.",
        "`math.log` is the natural logarithm; math.log(1) = 0, so factor 1 changes nothing.",
        "`width**-0.5 * (0.1 * math.log(factor) + 1) ** 2`",
    ),
)


@scale.probe("width 192, factor 40: DeepSeek-V3")
def _(student):
    found = float(student(192, 40.0))
    slips = {
        0.09879: "the temperature belongs to queries *and* keys: square it",
        0.0721688: "that is 1 / √192 alone, without the temperature",
        25.9652: "√192 divides; you multiply",
        0.0385: "the temperature divides here; scores must grow, not shrink",
        1.87386: "that is the temperature squared; 1 / √192 is missing",
        0.097129: "math.log10 is not the natural logarithm",
        0.169: "math.log2 is not the natural logarithm",
        1.586: "the logarithm is taken a tenth of: 0.1 · ln factor",
    }
    for slip, words in slips.items():
        if abs(found - slip) < 0.003 * abs(slip):
            raise Mistake(f"you give {found:.4g}: {words}")


scale.agrees("width 192, factor 40: DeepSeek-V3", lambda: (192, 40.0))
scale.agrees("factor 1 is plain attention", lambda: (48, 1.0))
scale.agrees("width 48, factor 8", lambda: (48, 8.0))


interval = exercise(
    share_interval,
    difficulty=3,
    importance=4,
    minutes=10,
    hints=(
        "p = hits / trials, n = trials, z = 1.96; three lines: middle, half, the two ends.",
        "middle = (p + z² / (2n)) / (1 + z² / n): p is pulled towards one half.",
        "half = z · √(p (1 − p) / n + z² / (4n²)) / (1 + z² / n)",
    ),
)


@interval.probe("5 of 10")
def _(student):
    low, high = ends(student(5, 10))
    if max(low, high) > 1.5:
        slip = "shares lie between 0 and 1, not per cent"
        if abs(low - 23.7) > 1:
            slip = "far beyond 1; `z**2 / 2 * n` multiplies with n, write `z**2 / (2 * n)`"
        raise Mistake(f"you give {low:.3g} to {high:.3g}: {slip}")
    if low > high:
        raise Mistake(f"you give {low:.3g} to {high:.3g}: the lower end comes first")
    slips = {
        0.4510: "the root is missing",
        0.3656: "z is missing before the root",
        0.1354: "divide the half width by 1 + z² / n as well",
        0.2693: "that is 90 %; 95 % want z = 1.96",
    }
    for slip, words in slips.items():
        if abs(low - slip) < 1e-3:
            raise Mistake(f"you give {low:.3f} to {high:.3f}: {words}")


@interval.probe("3 of 3")
def _(student):
    low, high = ends(student(3, 3))
    if low == high:
        raise Mistake(
            "you give an interval without width: √(p (1 − p) / n) is 0 here, and three hits are "
            "no proof; z² / (4n²) is missing under the root"
        )
    if abs(low - 0.4385) > 1e-3:
        raise Mistake(f"three hits of three speak for 0.438 and more; you give {low:.3f}")


interval.agrees("9 of 10", lambda: (9, 10))
interval.agrees("57 of 60", lambda: (57, 60))
interval.agrees("0 of 4", lambda: (0, 4))


def ends(found: object) -> tuple[float, float]:
    """Both ends as numbers. Raises: Mistake where it is no pair."""
    if not isinstance(found, tuple | list) or len(found) != 2:
        raise Mistake("a pair expected: the lowest and the highest share")
    return float(found[0]), float(found[1])
