"""Shares per label follow their formula, add up over texts, and show chance for random routing."""

import math

import pytest
import torch

from mini_moe.routing import stream_routing, trace_routing
from mini_moe.routing.measures import (
    count_labels,
    domain_specialisation,
    vocabulary_specialisation,
)
from tests.helpers import random_tokens, small_model, without_shape_hook
from tests.routing.measures.cases import random_choices, random_labels


def test_specialisation_by_hand():
    ids = torch.tensor([[[0, 1], [0, 2], [1, 2], [2, 0]]])
    shares = domain_specialisation(ids, torch.tensor([0, 0, 0, 1]), 2, 4)
    assert shares[0, 0].tolist() == pytest.approx([2 / 3, 2 / 3, 2 / 3, 0])
    assert shares[0, 1].tolist() == [1, 0, 1, 0]


def test_specialisation_equals_a_loop():
    ids, domains = random_choices(), random_labels()
    shares = domain_specialisation(ids, domains, 4, 6)
    for layer in range(2):
        for domain in range(4):
            mine = [t for t in range(40) if domains[t] == domain]
            for expert in range(6):
                hits = sum(expert in ids[layer, t].tolist() for t in mine)
                assert shares[layer, domain, expert].item() == pytest.approx(hits / len(mine))


def test_shares_of_a_label_sum_to_top_k():
    shares = domain_specialisation(random_choices(), random_labels(), 4, 6)
    assert shares.sum(-1).flatten().tolist() == pytest.approx([3.0] * 8)


def test_counts_of_parts_add_up_to_the_counts_of_the_whole():
    ids, labels = random_choices(), random_labels()
    parts = [count_labels(ids[:, cut], labels[cut], 4, 6) for cut in (slice(0, 15), slice(15, 40))]
    whole, added = count_labels(ids, labels, 4, 6), parts[0] + parts[1]
    assert added.choices.equal(whole.choices) and added.tokens.equal(whole.tokens)
    with pytest.raises(ValueError, match="cannot be added"):
        whole + count_labels(random_choices(top_k=2), labels, 4, 6)


def test_counts_of_a_stream_equal_those_of_its_sequences_at_once():
    model, labels = small_model(), random_labels(50)
    tokens = random_tokens(model.config, batch=1, seq=50)[0]
    parts = [
        count_labels(trace.expert_ids, trace.labels, 4, 8)
        for trace in stream_routing(model, tokens, labels=labels, seq_len=10, batch_tokens=20)
    ]
    whole = trace_routing(model, tokens.view(5, 10))
    once = count_labels(whole.expert_ids, labels, 4, 8)
    added = sum(parts[1:], start=parts[0])
    assert len(parts) == 3 and added.choices.equal(once.choices)


def test_tokens_without_a_label_are_left_out():
    ids, labels = random_choices(), random_labels()
    some = labels.clone()
    some[::2] = -1
    left, cut = count_labels(ids, some, 4, 6), count_labels(ids[:, 1::2], labels[1::2], 4, 6)
    assert left.choices.equal(cut.choices) and left.tokens.equal(cut.tokens)


def test_random_routing_shows_chance_within_its_noise():
    ids, labels = random_choices(1, 6000, 3, 6), random_labels(6000)
    counts = count_labels(ids, labels, 4, 6)
    assert counts.chance == 0.5
    assert counts.noise.tolist() == pytest.approx((0.25 / counts.tokens).sqrt().tolist())
    deviations = (counts.shares[0] - counts.chance) / counts.noise[:, None]
    assert deviations.abs().max() < 4
    assert 0.6 < deviations.std() < 1.4  # the noise floor is neither too large nor too small
    assert counts.load.sum().item() == pytest.approx(3)


def test_labels_that_do_not_fit_are_refused():
    ids = random_choices()
    with without_shape_hook(), pytest.raises(ValueError, match="one for each of 40 tokens"):
        count_labels(ids, random_labels(39), 4, 6)
    with pytest.raises(ValueError, match=r"\[-1, 3\), got 0 to 3"):
        count_labels(ids, random_labels(), 3, 6)


def test_a_label_without_tokens_has_no_shares():
    shares = domain_specialisation(random_choices(), random_labels(), 5, 6)
    assert shares[:, 4].isnan().all() and not shares[:, :4].isnan().any()


def test_rare_tokens_have_no_vocabulary_specialisation():
    ids = random_choices(1, 12, 1, 6)
    tokens = torch.tensor([7] * 11 + [3])
    shares = vocabulary_specialisation(ids, tokens, 9, 6, at_least=2)
    assert shares[0, 3].isnan().all() and shares[0, 0].isnan().all()
    expected = [ids[0, :11, 0].tolist().count(expert) / 11 for expert in range(6)]
    assert shares[0, 7].tolist() == pytest.approx(expected)
    once = vocabulary_specialisation(ids, tokens, 9, 6, at_least=1)
    assert once[0, 3].max() == 1  # one occurrence always looks perfectly specialised


def test_an_empty_label_has_infinite_noise():
    assert count_labels(random_choices(), random_labels(), 5, 6).noise[4] == math.inf
