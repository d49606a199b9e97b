"""Pictures of the model agree with the model's own counts."""

import pytest
import torch

from mini_moe import Transformer, presets
from mini_moe.model.rope import rope_frequencies
from mini_moe.views import matrix_heatmap, parameter_bars, parameter_treemap, rope_circles
from mini_moe.views.shapes import parameter_parts, short
from mini_moe.views.style import summary_of


@pytest.mark.parametrize("preset", [presets.tiny, presets.deepseek_v2_lite, presets.deepseek_v3])
def test_the_parts_add_up_to_the_models_own_count(preset):
    with torch.device("meta"):
        expected = Transformer(preset()).count_parameters()
    totals = tuple(map(sum, zip(*parameter_parts(preset()).values(), strict=True)))
    assert totals == expected


def test_v3_is_mostly_routed_experts_at_rest():
    figure = parameter_treemap(presets.deepseek_v3())
    areas = dict(zip(figure.data[0].labels, figure.data[0].values, strict=True))
    assert sum(areas.values()) == 671_026_419_200
    assert areas["routed experts, at rest"] + areas["routed experts, at work"] == 653_908_770_816
    assert "37.6 billion (5.6%)" in summary_of(figure)


def test_bars_show_total_and_active():
    figure = parameter_bars(presets.tiny())
    parts = parameter_parts(presets.tiny())
    for index, bar in enumerate(figure.data):
        assert list(bar.x) == [counts[index] for counts in parts.values()]


@pytest.mark.parametrize(
    ("count", "words"), [(671e9, "671 billion"), (15_360, "15.4 thousand"), (7, "7")]
)
def test_large_numbers_are_written_in_words(count, words):
    assert short(count) == words


def test_circles_turn_by_the_frequencies():
    frequencies = rope_frequencies(8, 10_000.0)
    figure = rope_circles(frequencies, range(6))
    first = figure.data[1]
    assert list(first.x) == pytest.approx(torch.arange(6.0).cos().tolist(), abs=1e-6)
    assert [trace.name for trace in figure.data[1::2]] == ["pair 0", "pair 1", "pair 2", "pair 3"]


def test_masked_places_are_left_out_of_a_matrix():
    values = torch.tensor([[1.0, float("-inf")], [0.25, 0.75]])
    figure = matrix_heatmap(values, rows=["a", "b"], columns=["a", "b"])
    assert figure.data[0].z[0][1] is None
    assert figure.data[0].texttemplate == "%{z:.2f}"
    assert "2 × 2 values from 0.25 to 1, the largest at (a, a); masked entries: 1" in summary_of(
        figure
    )
    assert matrix_heatmap(torch.rand(20, 20)).data[0].texttemplate is None
    with pytest.raises(ValueError, match="names: 2 expected, got 1"):
        matrix_heatmap(values, rows=["a"])
