"""What a few runs or trials can show: intervals for means, paired differences and shares."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple


class Interval(NamedTuple):
    """A mean and the range that contains the true mean with the stated confidence."""

    mean: float
    low: float
    high: float

    @property
    def half(self) -> float:
        """Half the width: the number after ±."""
        return (self.high - self.low) / 2

    @property
    def holds_zero(self) -> bool:
        """Whether zero is inside, so that not even the sign of the mean can be claimed."""
        return self.low <= 0 <= self.high

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def mean_interval(values: Sequence[int | float], confidence: float = 0.95) -> Interval:
    """Mean ± t · s / √n: Student's interval for the mean of n independent runs.

    s is the standard deviation with n − 1 in its denominator, t the quantile of Student's
    distribution with n − 1 degrees of freedom. Assumes that runs are roughly normally distributed.
    Raises: ValueError for fewer than two values, or one that is not finite.
    Source: Student, "The Probable Error of a Mean", Biometrika 6 (1908).
    """
    if len(values) < 2 or not all(map(math.isfinite, values)):
        raise ValueError(f"values: at least two finite numbers expected, got {list(values)}")
    mean = statistics.fmean(values)
    error = statistics.stdev(values) / math.sqrt(len(values))
    half = t_quantile((1 + confidence) / 2, len(values) - 1) * error
    return Interval(mean, mean - half, mean + half)


def paired_difference(
    first: Sequence[int | float], second: Sequence[int | float], confidence: float = 0.95
) -> Interval:
    """Return the interval for the mean of first − second, run by run.

    Runs with the same seed read the same batches, so the seed's effect on both cancels: the
    interval is narrower than the two separate intervals suggest.
    Raises: ValueError unless both have the same number of values, at least two.
    """
    if len(first) != len(second):
        raise ValueError(f"first, second: pairs expected, got {len(first)} and {len(second)}")
    return mean_interval([a - b for a, b in zip(first, second, strict=True)], confidence)


def claim(difference: Interval, first: str, second: str, digits: int = 3) -> str:
    """State in words what the interval of first − second (losses: lower is better) shows."""
    if difference.holds_zero:
        low, mean, high = difference.low, difference.mean, difference.high
        about = f"{mean:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"
        return f"no difference can be claimed between {first} and {second}: {about}"
    better, worse = (first, second) if difference.mean < 0 else (second, first)
    low, high = sorted((abs(difference.low), abs(difference.high)))
    about = f"{abs(difference.mean):.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
    return f"lower loss with {better} than with {worse}, by {about}"


def share_interval(hits: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's interval: the true shares that are plausible after `hits` in `trials` trials.

    With p = hits / trials and z the normal quantile (1.96 for 95 %):
    (p + z²/2n ± z √(p (1 − p) / n + z²/4n²)) / (1 + z²/n).
    Trials must be independent. The interval stays within 0 to 1, and wide if every trial hits.
    Raises: ValueError unless 0 ≤ hits ≤ trials, trials ≥ 1 and 0 < confidence < 1.
    Source: Wilson, Journal of the American Statistical Association 22 (1927).
    """
    if not 0 <= hits <= trials or trials < 1:
        raise ValueError(
            f"hits={hits}, trials={trials}: at least one trial, and 0 to trials hits, expected"
        )
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence} must be between 0 and 1")
    z = statistics.NormalDist().inv_cdf((1 + confidence) / 2)
    share, room = hits / trials, 1 + z**2 / trials
    middle = (share + z**2 / (2 * trials)) / room
    half = z * math.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2)) / room
    low, high = max(0.0, middle - half), min(1.0, middle + half)
    return (low if hits else 0.0), (high if hits < trials else 1.0)  # exact despite rounding


def t_quantile(probability: float, degrees: int) -> float:
    """Return the t below which Student's distribution has the given probability, to nine digits.

    Bisects `t_within`. t_quantile(0.975, 2) = 4.303; 2.776 with 4 degrees, 2.262 with 9.
    Raises: ValueError for a probability outside [0.5, 1) or fewer than one degree of freedom.
    """
    if not 0.5 <= probability < 1 or degrees < 1:
        raise ValueError(
            f"probability={probability}, degrees={degrees}: a probability in [0.5, 1) and at least "
            "1 degree of freedom expected"
        )
    low, high = 0.0, 1.0
    while t_within(high, degrees) < 2 * probability - 1:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (
            (middle, high) if t_within(middle, degrees) < 2 * probability - 1 else (low, middle)
        )
    return (low + high) / 2


def t_within(t: int | float, degrees: int) -> float:
    """Probability that Student's variable is within ± t: a finite sum of powers of a cosine.

    With tan θ = t / √degrees: for even degrees sin θ · (1 + 1/2 cos²θ + 1·3/(2·4) cos⁴θ + …), for
    odd degrees 2/π · (θ + sin θ · (cos θ + 2/3 cos³θ + 2·4/(3·5) cos⁵θ + …)), up to the power
    degrees − 2. Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3–26.7.4.
    """
    angle = math.atan(t / math.sqrt(degrees))
    cosine = math.cos(angle)
    odd = degrees % 2
    term, total = (cosine, 0.0) if odd else (1.0, 0.0)
    for power in range(odd, degrees - 1, 2):
        total += term
        term *= (power + 1) / (power + 2) * cosine**2
    if odd:
        return 2 / math.pi * (angle + math.sin(angle) * total)
    return math.sin(angle) * total
