"""Overlap, evenness and margin of a token's choice match loops and hand-worked cases."""

import math

import pytest
import torch

from mini_moe.routing.measures import choice_margin, chosen_by, gate_entropy, saturation
from tests.helpers import without_shape_hook
from tests.routing.measures.cases import random_choices


def test_chosen_by_marks_exactly_the_choices():
    ids = random_choices()
    chosen = chosen_by(ids, 6)
    for layer in range(2):
        for token in range(40):
            assert chosen[layer, token].nonzero().flatten().tolist() == sorted(
                ids[layer, token].tolist()
            )


@pytest.mark.parametrize(
    ("ids", "words"),
    [([[0, 6]], r"\[0, 6\), got 0 to 6"), ([[-1, 2]], "got -1"), ([[2, 2]], "different experts")],
)
def test_impossible_choices_are_refused(ids, words):
    with pytest.raises(ValueError, match=words):
        chosen_by(torch.tensor([ids]), 6)


def test_saturation_counts_common_experts_regardless_of_order():
    early = torch.tensor([[[0, 1], [2, 3], [4, 5]]])
    late = torch.tensor([[[1, 0], [2, 5], [0, 1]]])
    assert saturation(early, late).tolist() == pytest.approx([(2 + 1 + 0) / 6])


def test_saturation_is_the_mean_size_of_intersections():
    early, late = random_choices(seed=0), random_choices(seed=5)
    expected = [
        sum(len(set(a) & set(b)) / 3 for a, b in zip(x, y, strict=True)) / 40
        for x, y in zip(early.tolist(), late.tolist(), strict=True)
    ]
    assert saturation(early, late).tolist() == pytest.approx(expected)
    assert saturation(early, early).tolist() == [1.0, 1.0]


def test_saturation_of_unrelated_even_choices_is_k_over_n():
    early, late = (random_choices(1, 4000, 3, 6, seed=seed) for seed in (0, 1))
    assert float(saturation(early, late)) == pytest.approx(3 / 6, abs=0.02)


def test_saturation_needs_the_same_tokens():
    with without_shape_hook(), pytest.raises(ValueError, match="same choices as late"):
        saturation(random_choices(tokens=3), random_choices(tokens=4))


def test_equal_gates_have_entropy_one_whatever_their_scale():
    gates = torch.tensor([[2.5, 2.5, 2.5, 2.5], [1.0, 0.0, 0.0, 0.0]])
    assert gate_entropy(gates).tolist() == pytest.approx([1.0, 0.0])


def test_gate_entropy_by_hand():
    found = gate_entropy(torch.tensor([0.75, 0.25]) * 2.5)
    expected = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25)) / math.log(2)
    assert float(found) == pytest.approx(expected)
    for bad in (torch.tensor([1.0]), torch.tensor([1.0, -0.1])):
        with pytest.raises(ValueError, match="gates"):
            gate_entropy(bad)


def test_margin_is_between_the_last_chosen_and_the_first_left_out():
    scores = torch.tensor([[0.9, 0.1, 0.6, 0.55], [0.2, 0.2, 0.2, 0.2]])
    assert choice_margin(scores, 2).tolist() == pytest.approx([0.05, 0.0])
    assert choice_margin(scores, 1)[0].item() == pytest.approx(0.3)


def test_margin_to_an_excluded_expert_is_infinite():
    scores = torch.tensor([[0.9, 0.1, float("-inf"), float("-inf")]])
    assert choice_margin(scores, 2).item() == math.inf
    for top_k in (0, 4):
        with pytest.raises(ValueError, match=f"top_k={top_k}"):
            choice_margin(scores, top_k)
