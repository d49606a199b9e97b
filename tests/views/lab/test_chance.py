"""Chance is the baseline: random routing behaves as the formulas predict."""

import pytest
import torch

from mini_moe.routing import max_violation, noise_floor
from mini_moe.views.lab import chance_load, measures


def test_each_draw_is_a_load():
    load = chance_load(8, 2, 50, draws=7)
    assert load.shape == (7, 8)
    assert torch.allclose(load.sum(-1), torch.ones(7))


def test_a_token_never_chooses_an_expert_twice():
    assert chance_load(4, 4, 3, draws=2).unique().tolist() == [0.25]


def test_the_same_seed_gives_the_same_draws():
    assert torch.equal(chance_load(8, 2, 50, draws=3), chance_load(8, 2, 50, draws=3))
    assert not torch.equal(chance_load(8, 2, 50, draws=3), chance_load(8, 2, 50, draws=3, seed=1))


@pytest.mark.parametrize("tokens_per_expert", [32, 128, 512])
def test_most_random_batches_stay_below_the_noise_floor(tokens_per_expert):
    load = chance_load(16, 2, tokens_per_expert * 8)
    found = max_violation(load)
    floor = noise_floor(16, float(tokens_per_expert))
    assert 0.8 < float((found < floor).float().mean()) < 1
    assert 0.6 * floor < float(found.mean()) < 0.9 * floor


def test_measures_of_an_even_and_a_one_sided_load():
    even = measures(torch.tensor([0.25, 0.25, 0.25, 0.25]))
    assert [round(float(v), 4) for v in even.values()] == [0, 1, 0, 0]
    one_sided = measures(torch.tensor([0.5, 0.5, 0.0, 0.0]))
    assert [round(float(v), 4) for v in one_sided.values()] == [1, 0.5, 1, 2]


@pytest.mark.parametrize("top_k", [0, 9])
def test_an_impossible_choice_is_refused(top_k):
    with pytest.raises(ValueError, match="top_k"):
        chance_load(8, top_k, 5)


def test_a_batch_without_tokens_is_refused():
    with pytest.raises(ValueError, match="n_tokens=0"):
        chance_load(8, 2, 0)
