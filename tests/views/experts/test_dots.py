"""Dots and curves show the right numbers and the chance line."""

import pytest
import torch

from mini_moe.routing.measures import count_paths
from mini_moe.views import table
from mini_moe.views.experts import cause_scatter, overlap_dots, path_lines, saturation_curves
from mini_moe.views.style import summary_of


def lines_of(figure):
    return [shape.x0 if shape.x0 == shape.x1 else shape.y0 for shape in figure.layout.shapes]


def test_every_name_has_one_dot_per_layer_and_chance_is_marked():
    figure = overlap_dots({"token": [0.6, 0.5], "domain": [0.4, 0.3]}, 0.25, layers=(1, 2))
    assert [trace.name for trace in figure.data] == ["layer 1", "layer 2"]
    assert {"series": "layer 2", "x": 0.3, "y": "domain"} in table(figure)
    assert 0.25 in lines_of(figure)
    assert summary_of(figure) == "Mean over the layers: token 55%, domain 35%; chance: 25%."


def test_error_bars_are_two_standard_errors():
    figure = overlap_dots({"a": torch.tensor([0.5])}, 0.25, errors={"a": [0.02]})
    assert list(figure.data[0].error_x.array) == pytest.approx([0.04])
    with pytest.raises(ValueError, match="equally many"):
        overlap_dots({"a": [1.0], "b": [1.0, 2.0]}, 0.25)


def test_saturation_shows_chance_and_half_of_the_way():
    values = torch.tensor([[0.2, 0.1], [0.4, 0.5], [0.7, 0.8], [1.0, 1.0]])
    figure = saturation_curves([0, 5, 20, 100], values, 0.125, layers=(1, 2))
    assert list(figure.data[1].y) == pytest.approx([0.1, 0.5, 0.8, 1.0])
    assert 0.125 in lines_of(figure)
    assert "After 5 of 100 steps 45%" in summary_of(figure)
    assert "by step 20 the share is at least halfway" in summary_of(figure)
    with pytest.raises(ValueError, match="steps"):
        saturation_curves([0], values, 0.1)


def test_use_and_cost_are_told_apart():
    shares, change = torch.tensor([0.6, 0.5, 0.02]), torch.tensor([0.01, 0.2, 0.0])
    figure = cause_scatter(shares, change, torch.full((3,), 0.01), label="math", chance=0.25)
    assert list(figure.data[0].text) == ["0", "1", ""]  # expert 2 is neither used nor missed
    assert list(figure.data[0].error_y.array) == pytest.approx([0.02] * 3)
    words = summary_of(figure)
    assert "Expert 0 is used most by math (60% of its tokens)" in words
    assert "+0.200, is that of expert 1, used by 50%" in words


def test_only_paths_beyond_chance_are_drawn():
    ids = torch.tensor([[[0]] * 50 + [[1]] * 50 + [[2]] * 50])
    following = torch.tensor([[[3]] * 50 + [[0], [1], [2], [3], [0]] * 20])
    figure = path_lines(count_paths(torch.cat([ids, following]), 4), 1, layers=(4, 5), at_least=1.8)
    assert [trace.name for trace in figure.data] == ["4.0 → 5.3: 100%", "experts"]
    assert list(figure.data[0].y) == [0, 3]
    assert "1 of 4 experts have" in summary_of(figure)
