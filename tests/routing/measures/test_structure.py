"""Pairs and paths match loops; chance levels match simulations."""

import itertools

import pytest
import torch

from mini_moe.routing.measures import (
    coactivation,
    coactivation_chance,
    count_pairs,
    count_paths,
    path_chance,
    path_shares,
)
from tests.routing.measures.cases import random_choices


def test_coactivation_by_hand_counts_pairs_that_are_not_neighbours_in_rank():
    ids = torch.tensor([[0, 1, 2], [2, 1, 0], [0, 3, 1]])
    found = coactivation(ids, 4)
    assert found[0].tolist() == pytest.approx([1, 1, 2 / 3, 1 / 3])
    assert found[3].tolist() == [1, 1, 0, 1]


def test_coactivation_equals_a_loop_over_all_pairs():
    ids = random_choices()
    together, alone = torch.zeros(2, 6, 6), torch.zeros(2, 6)
    for layer, token in itertools.product(range(2), range(40)):
        chosen = ids[layer, token].tolist()
        for i in chosen:
            alone[layer, i] += 1
            for j in chosen:
                together[layer, i, j] += 1
    assert count_pairs(ids, 6).equal(together.long())
    torch.testing.assert_close(coactivation(ids, 6), together / alone[..., None])


def test_the_order_of_the_choices_does_not_matter():
    ids = random_choices()
    assert coactivation(ids.flip(-1), 6).equal(coactivation(ids, 6))


def test_pair_counts_of_parts_add_up():
    ids = random_choices()
    assert (count_pairs(ids[:, :9], 6) + count_pairs(ids[:, 9:], 6)).equal(count_pairs(ids, 6))


def test_shares_sum_to_top_k_and_unused_experts_have_none():
    ids = random_choices()
    assert coactivation(ids, 6).sum(-1).flatten().tolist() == pytest.approx([3.0] * 12)
    assert coactivation(ids, 7)[:, 6].isnan().all()


def test_chance_of_even_loads_is_exact():
    chance = coactivation_chance(torch.full((16,), 1 / 16), 4)
    assert chance[0, 0] == 1
    assert chance[0, 1].item() == pytest.approx(3 / 15)


def test_chance_of_uneven_loads_is_close_to_a_simulation():
    generator = torch.Generator().manual_seed(0)
    weights = torch.linspace(0.6, 1.6, 12)
    noise = -torch.log(-torch.log(torch.rand(60_000, 12, generator=generator)))
    ids = (weights.log() + noise).topk(3, dim=-1).indices  # drawn one at a time, by weight
    load = torch.bincount(ids.flatten(), minlength=12) / ids.numel()
    error = coactivation(ids, 12) - coactivation_chance(load, 3)
    assert error.abs().max() < 0.03


def test_paths_equal_a_loop():
    ids = random_choices(layers=3)
    expected = torch.zeros(2, 6, 6, dtype=torch.long)
    for layer, token in itertools.product(range(2), range(40)):
        for i, j in itertools.product(ids[layer, token].tolist(), ids[layer + 1, token].tolist()):
            expected[layer, i, j] += 1
    paths = count_paths(ids, 6)
    assert paths.equal(expected)
    shares = path_shares(paths, 3)
    mine = [token for token in range(40) if 2 in ids[0, token].tolist()]
    follow = sum(4 in ids[1, token].tolist() for token in mine)
    assert shares[0, 2, 4].item() == pytest.approx(follow / len(mine))
    assert shares.sum(-1).flatten().tolist() == pytest.approx([3.0] * 12)


def test_layers_that_choose_independently_show_path_chance():
    paths = count_paths(random_choices(2, 20_000, 2, 5), 5)
    chance = path_chance(paths, 2)
    assert chance.sum().item() == pytest.approx(2)
    assert (path_shares(paths, 2) - chance.unsqueeze(-2)).abs().max() < 0.03


def test_one_layer_has_no_paths():
    with pytest.raises(ValueError, match="two layers"):
        count_paths(random_choices(layers=1), 6)
