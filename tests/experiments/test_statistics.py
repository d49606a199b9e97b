"""Intervals match quantiles from printed tables and hand-worked cases."""

import math
import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mini_moe.experiments import (
    claim,
    mean_interval,
    paired_difference,
    share_interval,
    t_quantile,
)
from mini_moe.experiments.statistics import t_within

# Two-sided 95 %, 99 % and 90 %, as in any printed table of Student's t.
TABLE = {
    (0.975, 1): 12.7062, (0.975, 2): 4.30265, (0.975, 3): 3.18245, (0.975, 4): 2.77645,
    (0.975, 9): 2.26216, (0.975, 10): 2.22814, (0.975, 30): 2.04227, (0.995, 2): 9.92484,
    (0.995, 5): 4.03214, (0.95, 4): 2.13185, (0.95, 7): 1.89458,
}  # fmt: skip


@pytest.mark.parametrize("case", TABLE)
def test_quantiles_match_the_printed_table(case):
    assert t_quantile(*case) == pytest.approx(TABLE[case], rel=3e-6)


def test_many_degrees_approach_the_normal_distribution():
    normal = statistics.NormalDist().inv_cdf(0.975)
    assert t_quantile(0.975, 2000) == pytest.approx(normal, abs=2e-3)


@given(st.integers(1, 40), st.floats(0.51, 0.999))
def test_the_quantile_inverts_the_probability(degrees, probability):
    t = t_quantile(probability, degrees)
    assert t_within(t, degrees) == pytest.approx(2 * probability - 1, abs=1e-9)


def test_median_of_the_distribution_is_zero():
    assert t_quantile(0.5, 3) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("case", [(0.4, 2), (1.0, 2), (0.975, 0)])
def test_quantiles_that_do_not_exist_are_refused(case):
    with pytest.raises(ValueError, match="probability="):
        t_quantile(*case)


def test_interval_of_three_values_by_hand():
    # mean 2, s = 1, error 1/√3, t(0.975, 2) = 4.30265: half = 2.48414
    interval = mean_interval([1.0, 2.0, 3.0])
    assert interval.mean == 2
    assert interval.half == pytest.approx(2.48414, abs=1e-5)
    assert (interval.low, interval.high) == pytest.approx((-0.48414, 4.48414), abs=1e-5)
    assert interval.holds_zero


def test_equal_values_have_no_width():
    assert mean_interval([0.5, 0.5, 0.5]) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("values", [[], [1.0], [1.0, math.nan], [1.0, math.inf]])
def test_too_few_or_non_finite_values_are_refused(values):
    with pytest.raises(ValueError, match="at least two finite numbers"):
        mean_interval(values)


def test_pairing_cancels_the_seeds_effect():
    seeds = [3.0, 5.0, 1.0]
    better = [value - 0.1 for value in seeds]
    difference = paired_difference(better, seeds)
    assert difference.mean == pytest.approx(-0.1)
    assert difference.half < 1e-9 < mean_interval(seeds).half


def test_pairs_need_equal_numbers():
    with pytest.raises(ValueError, match="pairs expected, got 2 and 3"):
        paired_difference([1.0, 2.0], [1.0, 2.0, 3.0])


def test_a_claim_needs_an_interval_without_zero():
    lower, higher = [-0.3, -0.31, -0.29], [0.3, 0.31, 0.29]
    assert claim(mean_interval(lower), "a", "b") == (
        "lower loss with a than with b, by 0.300 [0.275, 0.325]"
    )
    assert claim(mean_interval(higher), "a", "b") == (
        "lower loss with b than with a, by 0.300 [0.275, 0.325]"
    )
    assert claim(mean_interval([-1.0, 1.0, 0.5]), "a", "b", 1) == (
        "no difference can be claimed between a and b: +0.2 [-2.4, +2.8]"
    )


def test_the_interval_contains_the_true_mean_as_often_as_it_says():
    draws = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0)).tolist()
    held = sum(mean_interval(values).holds_zero for values in draws)
    assert held / len(draws) == pytest.approx(0.95, abs=0.012)  # three standard errors


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_of_a_share_contains_it_and_stays_between_0_and_1(drawn):
    hits, trials = drawn
    low, high = share_interval(hits, trials)
    assert 0 <= low <= hits / trials <= high <= 1 and low < high


def test_intervals_of_shares_match_published_values():
    # Newcombe, Statistics in Medicine 17 (1998), table I, method 3
    assert share_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert share_interval(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert share_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert share_interval(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)


def test_more_trials_narrow_the_interval_of_a_share():
    widths = [high - low for low, high in (share_interval(n, n) for n in (3, 10, 60))]
    assert widths == sorted(widths, reverse=True)


def test_shares_of_impossible_counts_are_refused():
    for hits, trials in ((-1, 3), (4, 3), (0, 0)):
        with pytest.raises(ValueError, match="hits="):
            share_interval(hits, trials)
    with pytest.raises(ValueError, match="confidence=1"):
        share_interval(1, 2, 1.0)
