"""Expert heatmaps show the right numbers and state chance or noise."""

import pytest
import torch

from mini_moe.routing.measures import Effects, LabelCounts, coactivation_chance
from mini_moe.views import table
from mini_moe.views.experts import (
    coactivation_heatmap,
    knock_out_heatmap,
    specialisation_heatmap,
    word_map,
)
from mini_moe.views.style import summary_of

CHOICES = torch.tensor([[[10, 0, 5, 5], [0, 18, 1, 1]]])  # ten tokens per label, top 2
COUNTS = LabelCounts(CHOICES, torch.tensor([10, 10]), 2)


def values(figure):
    return {(row["y"], row["x"]): row["value"] for row in table(figure)}


def test_specialisation_shows_percentages_white_at_chance():
    counts = LabelCounts(CHOICES, torch.tensor([10, 20]), 2)
    figure = specialisation_heatmap(counts, ["math", "code"])
    found = values(figure)
    assert found["math", "0"] == 100 and found["code", "1"] == 90 and found["math", "1"] == 0
    scale = figure.data[0].colorscale
    assert [stop for stop, colour in scale if colour == "#FFFFFF"] == [0.5]  # k / N = 2 / 4
    assert "100 % of the math tokens choose expert 0, where chance is 50 %" in summary_of(figure)


def test_experts_are_grouped_by_label():
    figure = specialisation_heatmap(COUNTS, ["math", "code"])
    assert list(figure.data[0].x) == ["0", "2", "3", "1"]
    with pytest.raises(ValueError, match="one per label"):
        specialisation_heatmap(COUNTS, ["math"])


def test_coactivation_is_drawn_relative_to_chance():
    chance = coactivation_chance(torch.full((4,), 0.25), 2)
    together = torch.tensor([[1.0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]])
    figure = coactivation_heatmap(together, chance)
    found = values(figure)
    assert found["0", "1"] == pytest.approx(3) and found["0", "2"] == 0
    assert found["0", "0"] is None
    assert "Tokens of expert 0 choose expert 1 3.0 times as often" in summary_of(figure)


def effects(change, error):
    change, error = torch.tensor(change), torch.tensor(error)
    return Effects(torch.zeros(2), change, error, change.abs(), change.abs())


def test_effects_within_their_noise_show_no_number():
    figure = knock_out_heatmap(
        effects([[0.100, 0.001], [0.003, -0.050]], [[0.01, 0.001], [0.002, 0.01]]), ["a", "b"]
    )
    assert [list(row) for row in figure.data[0].text] == [["100", "·"], ["·", "-50"]]
    assert values(figure)["b", "0"] == pytest.approx(1)  # the table keeps it
    assert "2 of 4 changes exceed" in summary_of(figure)
    assert "Without expert 0 the loss on a rises most, by 100 ± 10" in summary_of(figure)


def test_no_effect_at_all_can_be_drawn():
    figure = knock_out_heatmap(effects([[0.0, 0.0]], [[0.0, 0.0]]), ["a", "b"], ["3"])
    assert list(figure.data[0].x) == ["3"] and "0 of 2 changes" in summary_of(figure)


def test_words_are_ranked_by_share_then_frequency_and_rare_ones_left_out():
    choices = torch.tensor([[[20, 0], [30, 0], [9, 0], [6, 6]]])
    counts = LabelCounts(choices, torch.tensor([20, 30, 9, 12]), 1)
    figure = word_map(counts, ["<b>&", "often", "rare", "both"], count=2)
    assert [list(row) for row in figure.data[0].text][0] == ["often", "&lt;b>&amp;"]
    assert table(figure)[0]["text"] == "often"  # the table also names the tokens
    assert values(figure)["0", "1"] == 100 and values(figure)["1", "1"] == 50
    assert "2 of 3 frequent tokens" in summary_of(figure)
    with pytest.raises(ValueError, match="at_least=50"):
        word_map(counts, ["a", "b", "c", "d"], at_least=50)
    with pytest.raises(ValueError, match="4 expected, one per token"):
        word_map(counts, ["a"])
