"""Curves, timings and cache sizes show the right numbers."""

import pytest

from mini_moe.views import cache_bars, compare_curves, log_curves, table, timing_bars
from mini_moe.views.style import summary_of


def test_curves_are_told_apart_without_colour():
    curves = {name: ([1, 2], [3.0, n]) for n, name in enumerate("abcdefg")}
    figure = compare_curves(curves, x_title="step", y_title="loss")
    looks = {(trace.line.color, trace.line.dash) for trace in figure.data}
    assert len(looks) == 7
    assert [note.text for note in figure.layout.annotations][0] == "a 0"
    assert "b ends at 1" in summary_of(figure)
    assert table(figure)[1] == {"series": "a", "x": 2.0, "y": 0.0}


def test_names_at_the_ends_do_not_overlap():
    curves = {name: ([1, 2], [3.0, 1.0]) for name in "abc"}
    figure = compare_curves(curves, x_title="step", y_title="loss", log_y=True)
    heights = sorted(note.y for note in figure.layout.annotations)
    assert min(b - a for a, b in zip(heights, heights[1:], strict=False)) > 0.02


def test_on_a_logarithmic_axis_points_have_their_numbers():
    curves = {"a": ([1, 2, 1024], [3, 4, 5])}
    figure = compare_curves(curves, x_title="users", y_title="bytes", log_x=True)
    assert figure.layout.xaxis.type == "log"
    assert list(figure.layout.xaxis.ticktext) == ["1", "2", "1,024"]


def test_curves_without_points_are_refused():
    for curves in ({}, {"a": ([], [])}, {"a": ([1], [1, 2])}):
        with pytest.raises(ValueError, match="curves"):
            compare_curves(curves, x_title="", y_title="")


def test_logs_become_curves_smoothed_on_request():
    log = [{"step": 1, "loss": 4.0}, {"step": 2}, {"step": 3, "loss": 2.0}]
    assert list(log_curves({"ours": log}).data[0].y) == [4.0, 2.0]
    assert list(log_curves({"ours": log}, smooth=2).data[0].y) == [4.0, 3.0]


def test_timings_show_median_and_spread():
    figure = timing_bars({"loop": [0.02, 0.03, 0.05], "sorted": [0.01]}, unit="ms")
    bar = figure.data[0]
    assert list(bar.x) == pytest.approx([30.0, 10.0])
    assert bar.error_x.array[0] == pytest.approx(20.0)
    assert bar.error_x.arrayminus[0] == pytest.approx(10.0)
    assert "3.0 times as long" in summary_of(figure)


@pytest.mark.parametrize(("seconds", "unit"), [({}, "ms"), ({"a": []}, "ms"), ({"a": [1]}, "h")])
def test_timings_refuse_what_they_cannot_draw(seconds, unit):
    with pytest.raises(ValueError, match="expected"):
        timing_bars(seconds, unit=unit)


def test_cache_bytes_are_compared_with_the_smallest():
    figure = cache_bars({"MHA": 3_997_696, "MLA": 70_272})
    words = "MHA keeps 3,997,696 bytes per token, MLA 70,272: a factor of 56.9."
    assert summary_of(figure) == words
    with pytest.raises(ValueError, match="bytes_per_token"):
        cache_bars({"none": 0})


def test_long_names_fit_beside_their_curves():
    short, long = (
        compare_curves({name: ([0, 1], [1, 2])}, x_title="x", y_title="y")
        for name in ("a", "a name with a lot of words in it")
    )
    assert short.layout.margin.r == 150
    assert long.layout.margin.r > 8 * len("a name with a lot of words in it 2")
