"""What a few trials say about a share: Wilson's interval."""

import math
from statistics import NormalDist


def share_interval(hits: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Lowest and highest true share that `hits` of `trials` independent ones speak for.

    With p = hits / trials and z the normal quantile (1.96 for 95 %):
    (p + z²/2n ± z √(p (1 − p) / n + z²/4n²)) / (1 + z²/n).
    Never leaves 0 to 1, and stays wide where all trials hit.
    Raises: ValueError unless 0 ≤ hits ≤ trials, trials ≥ 1 and 0 < confidence < 1.
    Source: Wilson, Journal of the American Statistical Association 22 (1927).
    """
    if not 0 <= hits <= trials or trials < 1:
        raise ValueError(f"hits={hits} of trials={trials}: 0 to trials, and a trial, expected")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence} must lie between 0 and 1")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share, room = hits / trials, 1 + z**2 / trials
    middle = (share + z**2 / (2 * trials)) / room
    half = z * math.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2)) / room
    low, high = max(0.0, middle - half), min(1.0, middle + half)
    return (low if hits else 0.0), (high if hits < trials else 1.0)  # exact despite rounding
