"""MaxVio pictures show the noise floor, and marks match the numbers."""

import pytest

from mini_moe.views.lab import chance_by_size, violation_curves, violation_rows
from mini_moe.views.style import summary_of

LOG = [{"step": step, "max_violation": [9.0, float(step)]} for step in (1, 2, 3, 4)]
RUNS = [
    {"arm": arm, "seed": seed, "max_violation": {"global": [value, value], "batch": [5.0, 6.0]}}
    for arm, first in (("none", 4.0), ("bias", 0.2))
    for seed, value in enumerate((first, first + 0.2))
]


def test_each_point_averages_the_steps_up_to_it():
    figure = violation_curves({"a": LOG}, 0.2, smooth=2)
    assert list(figure.data[0].y) == [1.0, 1.5, 2.5, 3.5]
    assert list(violation_curves({"a": LOG}, 0.2, smooth=1).data[0].y) == [1.0, 2.0, 3.0, 4.0]


def test_the_layer_can_be_chosen():
    assert list(violation_curves({"a": LOG}, 0.2, place=0, smooth=1).data[0].y) == [9.0] * 4


def test_the_noise_floor_is_drawn_and_in_the_summary():
    curves = violation_curves({"a": LOG}, 0.2)
    rows = violation_rows(RUNS, {"none": "no balancing"}, 0.2)
    assert (curves.layout.shapes[0].y0, rows.layout.shapes[0].x0) == (0.2, 0.2)
    assert "noise floor is 0.20" in summary_of(curves)
    assert "chance 0.20" in summary_of(rows)


def test_an_empty_log_is_refused():
    with pytest.raises(ValueError, match="curves"):
        violation_curves({"a": []}, 0.2)


def test_chance_falls_as_the_formula_predicts():
    figure = chance_by_size(sizes=(16, 64, 256), draws=100)
    median, floor = (list(trace.y) for trace in figure.data)
    for measured, formula in zip(median, floor, strict=True):
        assert 0.55 < measured / formula < 0.9
    assert floor[0] == pytest.approx(2 * floor[1]) == pytest.approx(4 * floor[2])


def test_rows_hold_the_mean_of_the_runs():
    figure = violation_rows(RUNS, {"none": "no balancing", "bias": "loss-free"}, 0.2)
    assert list(figure.data[0].x) == pytest.approx([4.1, 0.3])
    assert list(figure.data[0].y) == ["no balancing", "loss-free"]
    half = 12.7062 * 0.1  # Student's quantile with one degree of freedom, times s / √2
    assert list(figure.data[0].error_x.array) == pytest.approx([half, half], rel=1e-4)
    of_batches = violation_rows(RUNS, {"none": "none"}, 0.2, kind="batch")
    assert list(of_batches.data[0].x) == [5.5]


@pytest.mark.parametrize("bad", [{"names": {}}, {"kind": "layer"}, {"names": {"gone": "gone"}}])
def test_rows_of_nothing_are_refused(bad):
    with pytest.raises(ValueError):
        violation_rows(RUNS, **{"names": {"none": "none"}, "floor": 0.2} | bad)
