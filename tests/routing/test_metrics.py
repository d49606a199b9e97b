"""Load and balance match counts done by hand."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mini_moe.routing import (
    dead_experts,
    dead_share,
    expert_load,
    load_entropy,
    load_variation,
    max_violation,
    noise_floor,
    relative_load,
)
from tests.helpers import without_shape_hook


@st.composite
def choices(draw):
    """Draw ids [layers, tokens, top_k] and a number of experts, some of them possibly unused."""
    experts = draw(st.integers(2, 12))
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, 9)), draw(st.integers(1, 4)))
    flat = draw(
        st.lists(st.integers(0, experts - 1), min_size=math.prod(shape), max_size=math.prod(shape))
    )
    return torch.tensor(flat).view(shape), experts


@given(choices())
def test_metrics_are_what_counting_by_hand_gives(case):
    ids, experts = case
    load = expert_load(ids, experts)
    measured = zip(load, max_violation(load), load_entropy(load), dead_experts(load), strict=True)
    for layer, (shares, violation, entropy, dead) in zip(ids, measured, strict=True):
        counts = Counter(layer.flatten().tolist())
        total = sum(counts.values())
        by_hand = [counts[e] / total for e in range(experts)]
        assert shares.tolist() == pytest.approx(by_hand)
        assert violation.item() == pytest.approx(max(by_hand) * experts - 1, abs=1e-5)
        expected = -sum(p * math.log(p) for p in by_hand if p) / math.log(experts)
        assert entropy.item() == pytest.approx(expected, abs=1e-5)
        assert dead == experts - len(counts)
        relative = [share * experts for share in by_hand]
        assert relative_load(shares).tolist() == pytest.approx(relative)
        spread = math.sqrt(sum((r - 1) ** 2 for r in relative) / experts)
        assert load_variation(shares).item() == pytest.approx(spread, abs=1e-5)
        assert dead_share(shares).item() == pytest.approx(dead.item() / experts)


def test_even_load_has_no_violation_and_full_entropy():
    load = expert_load(torch.arange(8).view(4, 2), 8)
    assert max_violation(load) == 0 and load_entropy(load).item() == pytest.approx(1)
    assert dead_experts(load) == 0


def test_one_expert_for_all_is_the_worst_case():
    load = expert_load(torch.zeros(10, 1, dtype=torch.long), 16)
    assert max_violation(load) == 15 and load_entropy(load) == 0 and dead_experts(load) == 15


def test_counts_stay_exact_where_single_precision_would_not():
    """At 2²⁴ = 16,777,216, adding one to a float32 changes nothing."""
    ids = torch.zeros(18_000_000, 1, dtype=torch.long)
    ids[0] = 1
    load = expert_load(ids, 2)
    assert load[0] > 0.9999999 and load[1].item() == pytest.approx(1 / 18e6)


@pytest.mark.parametrize(("experts", "per_expert"), [(16, 400), (64, 1000), (256, 200)])
def test_noise_floor_is_about_what_random_routing_shows(experts, per_expert):
    shape = (30, experts * per_expert // 2, 2)
    load = expert_load(torch.randint(experts, shape), experts)
    measured = max_violation(load).mean().item()
    assert 0.6 < measured / noise_floor(experts, float(per_expert)) < 1.1


def test_four_experts_worked_out_on_paper():
    load = torch.tensor([0.5, 0.25, 0.25, 0.0])
    assert max_violation(load) == 1 and dead_experts(load) == 1 and dead_share(load) == 0.25
    assert relative_load(load).tolist() == [2, 1, 1, 0]
    assert load_entropy(load).item() == pytest.approx(0.75)  # 1.5 of 2 bits
    assert load_variation(load).item() == pytest.approx(math.sqrt(0.5))


def test_a_single_expert_is_even():
    load = expert_load(torch.zeros(6, 1, dtype=torch.long), 1)
    assert (max_violation(load), load_entropy(load), load_variation(load)) == (0, 1, 0)
    assert noise_floor(1, 100.0) == 0


def test_every_expert_chosen_by_every_token_is_even():
    load = expert_load(torch.arange(4).expand(7, 4), 4)
    assert max_violation(load) == 0 and load_variation(load) == 0


@pytest.mark.parametrize("bad", [0, -3])
def test_noise_floor_of_no_experts_is_refused(bad):
    with pytest.raises(ValueError, match="n_experts"):
        noise_floor(bad, 10.0)


@pytest.mark.parametrize("bad", [0, -1.0])
def test_noise_floor_of_no_tokens_is_refused(bad):
    with pytest.raises(ValueError, match="tokens_per_expert"):
        noise_floor(8, float(bad))


@pytest.mark.parametrize("ids", [[[0, 8]], [[-1, 0]]])
def test_expert_out_of_range_is_named(ids):
    with pytest.raises(ValueError, match="expert_ids"):
        expert_load(torch.tensor(ids), 8)


def test_no_tokens_have_no_load():
    with pytest.raises(ValueError, match="expert_ids"):
        expert_load(torch.zeros(0, 2, dtype=torch.long), 8)


@pytest.mark.parametrize(
    ("ids", "n_experts", "named"),
    [
        ([[0, 1]], 4, "expert_ids: a tensor of integers expected, got list"),
        (torch.zeros(2, 2), 4, "expert_ids: a tensor of integers expected, got torch.float32"),
        (torch.zeros(2, 2, dtype=torch.long), 4.0, "n_experts=4.0 must be an integer"),
        (torch.zeros(2, 2, dtype=torch.long), True, "n_experts=True must be an integer"),
    ],
)
def test_choices_of_the_wrong_type_are_refused(ids, n_experts, named):
    with without_shape_hook(), pytest.raises(ValueError, match=named):
        expert_load(ids, n_experts)


def test_choices_may_be_short_integers():
    ids = torch.tensor([[0, 1], [1, 3]])
    with without_shape_hook():
        short = expert_load(ids.to(torch.int32), np.int64(4))
    assert torch.equal(short, expert_load(ids, 4))
