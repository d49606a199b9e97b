"""Wrong answers to the exercises of 17_long_context."""

import math

import torch

from mini_moe.experiments.statistics import share_interval
from mini_moe.teaching.part5_reach.long_context import by_parts, sharpened_scale, turns_within


def ramp(frequencies, low, high):
    return ((torch.arange(len(frequencies)) - low) / (high - low)).clamp(0, 1)


def without_clamp(frequencies, low, high, factor):
    """Goes on past both ends of the ramp."""
    share = (torch.arange(len(frequencies)) - low) / (high - low)
    return frequencies * (1 - share) + frequencies / factor * share


def a_step(frequencies, low, high, factor):
    """Kept below the middle, divided above it."""
    return torch.where(ramp(frequencies, low, high) < 0.5, frequencies, frequencies / factor)


def wavelengths_mixed(frequencies, low, high, factor):
    """Mixes the wavelengths; their inverse is another mean."""
    share = ramp(frequencies, low, high)
    return 1 / ((1 - share) / frequencies + factor / frequencies * share)


def changes_its_argument(frequencies, low, high, factor):
    share = ramp(frequencies, low, high)
    frequencies *= 1 - share + share / factor
    return frequencies


def late_end(frequencies, low, high, factor):
    """The ramp ends one pair too late."""
    return by_parts(frequencies, low, high + 1, factor)


def wald(hits, trials):
    """The textbook's interval, which collapses where every trial hits."""
    p = hits / trials
    half = 1.96 * math.sqrt(p * (1 - p) / trials)
    return p - half, p + half


def wilson(hits, trials, *, z=1.96, root=math.sqrt, shrink_half=True):
    """Wilson's interval with one thing changed."""
    p, room = hits / trials, 1 + 1.96**2 / trials
    middle = (p + 1.96**2 / (2 * trials)) / room
    half = z * root(p * (1 - p) / trials + 1.96**2 / (4 * trials**2))
    half /= room if shrink_half else 1
    return middle - half, middle + half


WRONG = {
    "turns_within": {
        "radians": (lambda f, n: n * f, "that is radians"),
        "degrees": (lambda f, n: n * f / 360, "360 would be degrees"),
        "half turns": (lambda f, n: n * f / math.pi, "only half a turn"),
        "the wavelength": (lambda f, n: 2 * math.pi / f, "must turn more often"),
        "rounded": (lambda f, n: turns_within(f, n).floor(), "don't round"),
        "one number": (lambda f, n: turns_within(f, n).sum(), "one number for each"),
    },
    "unfinished_pairs": {
        "those that have": (23, "how many have not"),
        "channels": (18, "two channels turn together"),
        "radians": (3, "6.28"),
        "the last that went round": (22, "counted from 0"),
        "the small model": (4, "64 channels"),
        "another number": (12, "too high"),
    },
    "by_parts": {
        "divides all": (lambda f, low, high, s: f / s, "position interpolation"),
        "the wrong way round": (
            lambda f, low, high, s: f * ramp(f, low, high) + f / s * (1 - ramp(f, low, high)),
            "the other way round",
        ),
        "multiplies": (
            lambda f, low, high, s: f * (1 - ramp(f, low, high)) + f * s * ramp(f, low, high),
            "wants slower hands",
        ),
        "no clamp": (without_clamp, "clamp"),
        "a step": (a_step, "between low and high lies a ramp"),
        "wavelengths": (wavelengths_mixed, "mix the frequencies"),
        "ends late": (late_end, "pair 4"),
        "changes its argument": (changes_its_argument, "leave the input as it is"),
        "changes nothing": (lambda f, low, high, s: f.clone(), "between low and high lies a ramp"),
    },
    "sharpened_scale": {
        "not squared": (
            lambda w, s: w**-0.5 * (0.1 * math.log(s) + 1),
            "square it",
        ),
        "without temperature": (lambda w, s: w**-0.5, "without the temperature"),
        "divides": (lambda w, s: w**-0.5 / (0.1 * math.log(s) + 1) ** 2, "must grow"),
        "log10": (lambda w, s: w**-0.5 * (0.1 * math.log10(s) + 1) ** 2, "math.log10"),
        "log2": (lambda w, s: w**-0.5 * (0.1 * math.log2(s) + 1) ** 2, "math.log2"),
        "no tenth": (lambda w, s: w**-0.5 * (math.log(s) + 1) ** 2, "a tenth"),
        "only the temperature": (
            lambda w, s: sharpened_scale(1, s),
            "1 / √192 is missing",
        ),
        "times the width": (lambda w, s: w * sharpened_scale(w, s), "√192 divides"),
    },
    "share_interval": {
        "the textbook's": (wald, "three hits are no proof"),
        "per cent": (
            lambda hits, n: tuple(100 * end for end in share_interval(hits, n)),
            "not per cent",
        ),
        "multiplies with n": (
            lambda hits, n: (hits / n - 13, hits / n + 1.96**2 / 2 * n),
            "write `z**2 / (2 * n)`",
        ),
        "high first": (lambda hits, n: share_interval(hits, n)[::-1], "comes first"),
        "no root": (
            lambda hits, n: wilson(hits, n, root=lambda v: v),
            "the root is missing",
        ),
        "no z": (
            lambda hits, n: wilson(hits, n, z=1),
            "z is missing",
        ),
        "half not shrunk": (
            lambda hits, n: wilson(hits, n, shrink_half=False),
            "divide the half width",
        ),
        "pulled nowhere": (
            lambda hits, n: (hits / n - 0.26, hits / n + 0.26),
            "0.438 and more",
        ),
        "only the lower end": (lambda hits, n: share_interval(hits, n)[0], "a pair expected"),
        "at 90 per cent": (lambda hits, n: share_interval(hits, n, 0.9), "that is 90 %"),
    },
}
