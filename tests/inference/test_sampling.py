"""Tokens are drawn from the distribution that the settings describe, for every filter."""

import pytest
import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from mini_moe.inference import Sampling, sample_token
from mini_moe.inference.sampling import next_probabilities, next_token


def drawn(logits, n=4000, **options):
    """Draw n times from the same logits and return each token's share."""
    settings = {"temperature": 1.0, "top_p": 1.0} | options
    generator = torch.Generator().manual_seed(0)
    tokens = sample_token(logits.expand(n, -1), generator=generator, **settings)
    return torch.bincount(tokens.flatten(), minlength=logits.shape[-1]) / n


PROBABILITIES = torch.tensor([[0.1, 0.5, 0.05, 0.3, 0.05]])


def test_samples_follow_the_softmax():
    assert (drawn(PROBABILITIES.log()) - PROBABILITIES[0]).abs().max() < 0.03


def test_temperature_sharpens_and_flattens():
    squared = PROBABILITIES[0] ** 2 / (PROBABILITIES**2).sum()
    assert (drawn(PROBABILITIES.log(), temperature=0.5) - squared).abs().max() < 0.03
    assert (drawn(PROBABILITIES.log(), temperature=1e6) - 0.2).abs().max() < 0.03


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [(1e-6, [1]), (0.5, [1]), (0.51, [1, 3]), (0.79, [1, 3]), (0.89, [0, 1, 3])],
)
def test_top_p_keeps_the_fewest_that_reach_it(top_p, kept):
    shares = drawn(PROBABILITIES.log(), top_p=top_p)
    assert shares.nonzero().flatten().tolist() == kept
    expected = PROBABILITIES[0, kept] / PROBABILITIES[0, kept].sum()
    assert (shares[kept] - expected).abs().max() < 0.03


@pytest.mark.parametrize("temperature", [0.0, 1e-30, 1e-6])
def test_cold_sampling_takes_each_sequences_best_token(temperature):
    logits = torch.randn(6, 50)
    tokens = sample_token(logits, temperature, 0.9)
    assert tokens.shape == (6, 1) and torch.equal(tokens[:, 0], logits.argmax(dim=-1))


@pytest.mark.parametrize("batch", [1, 5])
def test_one_token_is_drawn_for_each_sequence(batch):
    certain = torch.full((batch, 9), -1e9)
    for index in range(batch):
        certain[index, index] = 0
    tokens = sample_token(certain.bfloat16(), 1.0, 0.95)
    assert tokens.flatten().tolist() == list(range(batch)) and tokens.dtype == torch.int64


SETTINGS = [
    {"temperature": 1.0, "top_p": 1.0},
    {"temperature": 0.7, "top_k": 4, "top_p": 1.0},
    {"temperature": 1.0, "top_k": 7, "top_p": 0.8},
    {"temperature": 1.6, "top_p": 0.6, "min_p": 0.2},
    {"temperature": 1.0, "top_p": 1.0, "min_p": 0.3, "repetition_penalty": 1.3},
    {"temperature": 1.0, "top_p": 1.0, "repetition_penalty": 0.5},
    {"temperature": 0.9, "top_k": 12, "top_p": 0.9, "min_p": 0.02, "repetition_penalty": 2.0},
]


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("seed", range(5))
def test_distributions_are_those_of_transformers(settings, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(20, generator=generator)
    seen = [3, 7, 7, 19]
    chain = LogitsProcessorList()
    chain.append(RepetitionPenaltyLogitsProcessor(settings.get("repetition_penalty", 1.0)))
    chain.append(TemperatureLogitsWarper(settings["temperature"]))
    chain.append(TopKLogitsWarper(settings.get("top_k", 20)))
    chain.append(TopPLogitsWarper(settings["top_p"]))
    chain.append(MinPLogitsWarper(settings.get("min_p", 0.0)))
    expected = chain(torch.tensor([seen]), logits[None]).softmax(dim=-1)[0]
    found = next_probabilities(logits, Sampling(**settings), seen)
    assert (found - expected).abs().max() < 1e-6


@pytest.mark.parametrize("settings", SETTINGS)
def test_tokens_follow_their_distribution(settings):
    logits, n = 2 * torch.randn(20), 4000
    sampling, generator = Sampling(**settings), torch.Generator().manual_seed(0)
    tokens = [next_token(logits, sampling, generator, [3, 7]) for _ in range(n)]
    counts = torch.bincount(torch.tensor(tokens), minlength=20)
    expected = n * next_probabilities(logits, sampling, [3, 7])
    assert counts[expected == 0].sum() == 0
    kept = expected > 0
    chi_square = ((counts - expected)[kept] ** 2 / expected[kept]).sum()
    freedom = int(kept.sum()) - 1
    assert chi_square < freedom + 5 * (2 * freedom) ** 0.5 + 5


def test_greedy_puts_all_probability_on_the_likeliest_token():
    logits = torch.tensor([0.1, 2.0, -1.0])
    sampling = Sampling(temperature=0.0)
    assert next_token(logits, sampling) == 1
    assert next_probabilities(logits, sampling).tolist() == [0.0, 1.0, 0.0]


def test_a_penalty_can_change_the_likeliest_token():
    logits = torch.tensor([1.0, 1.2, -5.0])
    sampling = Sampling(temperature=0.0, repetition_penalty=1.5)
    assert next_token(logits, sampling, seen=[1]) == 0
    assert next_token(logits, sampling, seen=[0, 1]) == 1
    assert logits.tolist() == pytest.approx([1.0, 1.2, -5.0])


def test_impossible_tokens_are_never_drawn():
    logits = torch.tensor([0.0, -torch.inf, 0.0, -torch.inf])
    sampling = Sampling(temperature=100.0, top_p=1.0)
    assert {next_token(logits, sampling) for _ in range(200)} == {0, 2}


@pytest.mark.parametrize("bad", [[torch.nan, 0.0], [0.0, torch.inf], [-torch.inf, -torch.inf]])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_no_token_is_chosen_from_logits_that_are_not_finite(bad, temperature):
    for choose in (next_token, next_probabilities):
        with pytest.raises(ValueError, match="finite maximum expected"):
            choose(torch.tensor(bad), Sampling(temperature=temperature))
