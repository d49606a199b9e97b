import pytest
from hypothesis import given
from hypothesis import strategies as st

from mini_moe.experiments.needle.shares import share_interval


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_holds_the_share_and_stays_between_0_and_1(drawn):
    hits, trials = drawn
    low, high = share_interval(hits, trials)
    assert 0 <= low <= hits / trials <= high <= 1 and low < high


def test_published_values_are_met():
    # Newcombe, Statistics in Medicine 17 (1998), table I, method 3
    assert share_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert share_interval(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert share_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert share_interval(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)


def test_more_trials_say_more():
    widths = [high - low for low, high in (share_interval(n, n) for n in (3, 10, 60))]
    assert widths == sorted(widths, reverse=True)


def test_impossible_counts_are_refused():
    for hits, trials in ((-1, 3), (4, 3), (0, 0)):
        with pytest.raises(ValueError, match="hits="):
            share_interval(hits, trials)
    with pytest.raises(ValueError, match="confidence=1"):
        share_interval(1, 2, 1.0)
