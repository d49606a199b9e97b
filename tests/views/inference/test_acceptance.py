import pytest

from mini_moe.experiments.statistics import share_interval
from mini_moe.inference.speculative import Round, Speculation
from mini_moe.views.inference import acceptance_bars, tokens_curves
from mini_moe.views.style import summary_of, table

HALF = Speculation([Round([1, 2], 1, 3), Round([4], 1, 5), Round([6], 0, 7)] * 5)
ALL = Speculation([Round([1], 1, 2)] * 10)


def test_bars_are_shares_of_what_was_proposed():
    figure = acceptance_bars({"half": HALF, "all": ALL})
    assert [row["x"] for row in table(figure)] == [0.5, 1.0]
    assert "all 100%, half 50%, all together 67%" in summary_of(figure)
    said = [note.text for note in figure.layout.annotations]
    assert "10 of 20: 1.67 tokens per pass" in said


def test_what_others_published_is_a_band():
    figure = acceptance_bars({"half": HALF}, published={"V3: 85 to 90 %": (0.85, 0.9)})
    assert [(band.x0, band.x1) for band in figure.layout.shapes] == [(0.85, 0.9)]
    assert "V3: 85 to 90 %" in [note.text for note in figure.layout.annotations]
    assert len(acceptance_bars({"half": HALF}).layout.shapes) == 0


def test_bars_carry_the_interval_of_a_share():
    bars = acceptance_bars({"half": HALF, "all": ALL}).data[0]
    low, high = share_interval(10, 20)
    assert (bars.error_x.arrayminus[0], bars.error_x.array[0]) == (0.5 - low, high - 0.5)
    assert bars.error_x.array[1] == 0 < bars.error_x.arrayminus[1]


@pytest.mark.parametrize("told", [{}, {"none": Speculation([Round([], 0, 1)])}])
def test_proposals_are_needed(told):
    with pytest.raises(ValueError, match="told"):
        acceptance_bars(told)


def test_theory_is_a_line_and_measurements_are_points():
    figure = tokens_curves({"a = 0.5": [1, 1.5, 1.75]}, [1.0, 1.4])
    rows = {(row["series"], row["x"]): row["y"] for row in table(figure)}
    assert rows["a = 0.5", 2] == 1.75 and rows["measured", 1] == 1.4
    assert summary_of(figure) == "Measured: 0 ahead 1.00, 1 ahead 1.40."
    assert summary_of(tokens_curves({"a": [1, 2]})) == "Theory only."
    with pytest.raises(ValueError, match="at least one line"):
        tokens_curves({})
