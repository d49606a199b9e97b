"""The routing figures draw exactly what the trace recorded."""

import dataclasses
import re

import pytest
import torch

from mini_moe.routing import expert_load, max_violation, noise_floor
from mini_moe.views import coloured_sentence, load_bars, routing_heatmap
from mini_moe.views.style import summary_of


def heaviest_experts(trace, place):
    heaviest = trace.gates[place].argmax(dim=-1, keepdim=True)
    return trace.expert_ids[place].gather(-1, heaviest).flatten().tolist()


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_the_sentence_carries_each_tokens_heaviest_expert(trace, layer):
    html = coloured_sentence(trace, layer).html
    numbers = re.findall(r'font-size:11px">(\d+)<', html)
    assert [int(number) for number in numbers] == heaviest_experts(trace, layer - 1)
    assert f"In layer {layer}, {len(trace.pieces)} tokens" in repr(coloured_sentence(trace, layer))


def test_hovering_over_a_token_shows_all_its_gates(trace):
    titles = re.findall(r'title="([^"]*)"', coloured_sentence(trace, 2).html)
    for title, ids, gates in zip(titles, trace.expert_ids[1], trace.gates[1], strict=True):
        for expert, gate in zip(ids.tolist(), gates.tolist(), strict=True):
            assert f"expert {expert} × {gate:.2f}" in title


def test_markup_in_a_text_is_shown_and_not_run(model, trace):
    hostile = dataclasses.replace(trace, pieces=['<script>"&'] * len(trace.pieces))
    html = coloured_sentence(hostile).html
    assert "<script>" not in html
    assert "&lt;script&gt;&quot;&amp;" in html


def test_a_very_long_text_is_cut_and_says_so(trace):
    times = 100
    long = trace.take(torch.arange(len(trace.pieces)).repeat(times))
    left_out = times * len(trace.pieces) - 600
    assert f"and {left_out} more tokens" in coloured_sentence(long).html


def test_a_layer_without_experts_is_refused(trace):
    with pytest.raises(ValueError, match=r"layer=0: one with experts expected, \[1, 2, 3\]"):
        coloured_sentence(trace, 0)
    with pytest.raises(ValueError, match="layer=9"):
        routing_heatmap(trace, 9)


@pytest.mark.parametrize("layer", [1, 3])
def test_the_heatmap_holds_the_scores_and_the_gates(trace, layer):
    figure = routing_heatmap(trace, layer)
    heat, outline, text = figure.data
    assert torch.equal(torch.tensor(heat.z).T, trace.scores[layer - 1])
    chosen = {
        (token, expert) for token, ids in enumerate(trace.expert_ids[layer - 1].tolist())
        for expert in ids
    }  # fmt: skip
    assert set(zip(text.x, text.y, strict=True)) == chosen
    assert outline.x.count(None) == len(chosen)
    gates = trace.gates[layer - 1].flatten().tolist()
    assert list(text.text) == [f"{gate:.1f}".removeprefix("0") for gate in gates]


def test_the_heatmap_draws_the_end_of_a_long_text(trace):
    figure = routing_heatmap(trace, 1, max_tokens=5)
    first = len(trace.pieces) - 5
    assert list(figure.data[0].x) == list(range(first, len(trace.pieces)))
    assert f"the last 5 of {len(trace.pieces)} tokens" in figure.layout.title.text
    assert torch.equal(torch.tensor(figure.data[0].z).T, trace.scores[0, first:])


def test_load_bars_show_load_even_share_and_chance(trace):
    load = expert_load(trace.expert_ids, 16)[0]
    n_choices = trace.expert_ids[0].numel()
    figure = load_bars(load, n_choices)
    assert torch.allclose(torch.tensor(figure.data[0].y), load)
    lines = [shape.y0 for shape in figure.layout.shapes]
    assert lines == pytest.approx([1 / 16, (1 + noise_floor(16, n_choices / 16)) / 16])
    assert f"MaxVio {float(max_violation(load)):.2f}" in summary_of(figure)
    assert f"{int((load == 0).sum())} expert" in summary_of(figure)


def test_load_bars_without_a_count_draw_no_chance():
    figure = load_bars(torch.full((4,), 0.25))
    assert len(figure.layout.shapes) == 1
    assert "every expert is chosen" in summary_of(figure)
