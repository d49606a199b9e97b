"""Pictures of several seeds: their numbers are right, and claims follow from intervals."""

import pytest

from mini_moe.experiments import mean_interval, paired_difference
from mini_moe.views import table
from mini_moe.views.lab import difference_rows, interval_line, loss_bands
from mini_moe.views.style import summary_of


def run(arm, seed, loss):
    curve = [[step, 0.1 * step, loss + 1 / step] for step in (10, 50, 100)]
    return {"arm": arm, "seed": seed, "curve": curve, "validation": {"all": loss}}


LOSSES = {"dense": [3.4, 3.5, 3.3], "moe": [3.3, 3.41, 3.2], "twin": [3.41, 3.48, 3.3]}
RUNS = [run(arm, seed, loss) for arm, losses in LOSSES.items() for seed, loss in enumerate(losses)]


def test_bands_hold_the_mean_and_its_interval():
    figure = loss_bands(RUNS, {"dense": "Dense", "moe": "Mixture"})
    band, line = figure.data[:2]
    expected = mean_interval([loss + 1 / 100 for loss in LOSSES["dense"]])
    assert (line.x[-1], line.y[-1]) == (100, pytest.approx(expected.mean))
    assert max(band.y[1], band.y[2]) - min(band.y[1], band.y[2]) == pytest.approx(
        expected.high - expected.low
    )
    assert line.x[0] == 50  # the first steps would dwarf all the rest
    assert "Dense ends at 3.41 ± 0.25" in summary_of(figure)


def test_bands_against_seconds_use_the_time_of_each_arm():
    figure = loss_bands(
        RUNS, {"dense": "a", "moe": "b"}, seconds_per_step={"dense": 1.0, "moe": 2.5}
    )
    assert [trace.x[-1] for trace in figure.data if trace.line.width == 2.5] == [100, 250]
    assert figure.layout.xaxis.title.text == "seconds of training"


def test_live_curves_look_different_from_committed_ones():
    log = [{"step": n, "seconds": n / 10, "loss": float(n)} for n in range(1, 65)]
    figure = loss_bands(RUNS, {"dense": "committed"}, live={"yours": log})
    mine = figure.data[-1]
    assert mine.name == "yours" and mine.line.dash == "dot"
    assert (list(mine.x), list(mine.y)) == ([50, 60], [45.5, 55.5])


def test_arms_are_told_apart_without_colour():
    figure = loss_bands(RUNS, {name: name for name in LOSSES})
    lines = [trace for trace in figure.data if trace.line.width == 2.5]
    assert len({trace.line.dash for trace in lines}) == 3


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        ({}, {}, "at least one arm"),
        ({"sparse": "x"}, {}, "arm='sparse': one of dense, moe, twin expected"),
        ({"moe": "x"}, {"seconds_per_step": {"dense": 1.0}}, "one for arm 'moe' expected"),
    ],
)
def test_bands_refuse_what_they_cannot_draw(names, options, message):
    with pytest.raises(ValueError, match=message):
        loss_bands(RUNS, names, **options)


def test_lines_carry_an_interval_at_every_place():
    figure = interval_line({"experts": {8: [3.0, 3.2], 1: [3.5, 3.4]}}, x_title="n", log_x=True)
    (line,) = figure.data
    assert list(line.x) == [1, 8] and list(line.y) == pytest.approx([3.45, 3.1])
    assert line.error_y.array[1] == pytest.approx(mean_interval([3.0, 3.2]).half)
    assert list(figure.layout.xaxis.ticktext) == ["1", "8"]
    assert "3.450 ± 0.635 at 1, 3.100 ± 1.271 at 8" in summary_of(figure)


@pytest.mark.parametrize("series", [{}, {"a": {}}])
def test_lines_need_places(series):
    with pytest.raises(ValueError, match="series"):
        interval_line(series, x_title="n")


def test_rows_are_paired_differences_and_claim_only_what_the_interval_allows():
    figure = difference_rows(RUNS, {"moe": "mixture", "twin": "twin"}, "dense")
    mixture, twin = figure.data
    expected = paired_difference(LOSSES["moe"], LOSSES["dense"])
    assert (mixture.x[0], mixture.error_x.array[0]) == pytest.approx((expected.mean, expected.half))
    notes = [note.text for note in figure.layout.annotations]
    assert any(note.endswith("lower") for note in notes)
    assert any(note.endswith("no claim") for note in notes)
    assert twin.marker.symbol == "circle-open"
    assert "twin -0.003 ± 0.038 (no claim)" in summary_of(figure)
    assert len(table(figure)) == 2


def test_rows_need_arms():
    with pytest.raises(ValueError, match="at least one arm"):
        difference_rows(RUNS, {}, "dense")
