import pytest

from mini_moe import presets
from mini_moe.inference.engine.absorption import crossover
from mini_moe.views.inference import crossover_curves, pass_curve
from mini_moe.views.style import summary_of, table


def test_the_curves_cross_where_the_engine_predicts():
    config, keys = presets.deepseek_v3(), 4096
    rows = table(crossover_curves(config, keys))
    cost = {(row["series"], row["x"]): row["y"] for row in rows}
    meeting = crossover(config, keys)
    for new in (2**power for power in range(13)):
        assert (cost["absorbed", new] < cost["naive", new]) == (new < meeting)


def test_a_single_key_is_refused():
    with pytest.raises(ValueError, match="keys=1"):
        crossover_curves(presets.tiny(), 1)


def test_a_pass_is_compared_with_its_smallest():
    figure = pass_curve({1: 0.001, 8: 0.002}, {"bytes": [0.0005, 0.0006]})
    assert summary_of(figure).endswith("8 times the tokens in 2.0 times the time.")
    rows = {(row["series"], row["x"]): row["y"] for row in table(figure)}
    assert rows["measured", 8] == pytest.approx(2.0) and rows["bytes", 1] == pytest.approx(0.5)


def test_sizes_come_in_order():
    rows = table(pass_curve({4: 0.004, 1: 0.001, 2: 0.002}))
    assert [row["x"] for row in rows] == [1, 2, 4]


def test_missing_sizes_and_floors_of_another_length_are_refused():
    with pytest.raises(ValueError, match="at least one size"):
        pass_curve({})
    with pytest.raises(ValueError, match=r"floors\['bytes'\]: 1 numbers expected, got 2"):
        pass_curve({1: 0.1}, {"bytes": [1.0, 2.0]})
