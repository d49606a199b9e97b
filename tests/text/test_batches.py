"""Batches depend only on (seed, step); windows count every token once."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mini_moe.text import Split, bits_per_byte, sample_batch, windows
from mini_moe.text.batches import domain_split, window_starts


def counting_split(n_tokens, n_domains=3):
    """Make a split of tokens 0, 1, 2, …, so that each token is its own position."""
    tokens = np.arange(n_tokens, dtype=np.uint16)
    return Split(tokens, (tokens % n_domains).astype(np.uint8), n_bytes=4 * n_tokens)


def test_the_same_step_gives_the_same_batch():
    split = counting_split(1000)
    one = sample_batch(split, batch=8, length=20, seed=3, step=77)
    for step in (5, 1, 78):
        sample_batch(split, batch=8, length=20, seed=3, step=step)
    again = sample_batch(split, batch=8, length=20, seed=3, step=77)
    assert torch.equal(one.tokens, again.tokens) and torch.equal(one.domains, again.domains)


@pytest.mark.parametrize("other", [{"seed": 4, "step": 77}, {"seed": 3, "step": 78}])
def test_another_seed_or_step_gives_another_batch(other):
    split = counting_split(1000)
    one = sample_batch(split, batch=8, length=20, seed=3, step=77)
    assert not torch.equal(one.tokens, sample_batch(split, batch=8, length=20, **other).tokens)


def test_global_random_state_does_not_matter():
    split = counting_split(1000)
    one = sample_batch(split, batch=4, length=8, seed=0, step=0)
    np.random.seed(9)
    torch.manual_seed(9)
    assert torch.equal(one.tokens, sample_batch(split, batch=4, length=8, seed=0, step=0).tokens)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.integers(0, 300), st.integers(0, 10**6))
def test_rows_are_consecutive_and_carry_their_domains(length, extra, step):
    split = counting_split(length + extra)
    batch = sample_batch(split, batch=3, length=length, seed=1, step=step)
    assert batch.tokens.shape == (3, length) and batch.tokens.dtype == torch.int64
    assert torch.equal(batch.tokens, batch.tokens[:, :1] + torch.arange(length))
    assert torch.equal(batch.domains, batch.tokens % 3)


def test_every_place_can_be_drawn():
    starts = [int(s) for step in range(50) for s in window_starts(12, 10, 4, seed=0, step=step)]
    assert set(starts) == {0, 1, 2}


@pytest.mark.parametrize("call", [sample_batch, windows])
def test_a_text_too_short_names_both_lengths(call):
    options = {"batch": 1, "seed": 0, "step": 0} if call is sample_batch else {}
    with pytest.raises(ValueError, match="needs 11 tokens, but the text has only 10"):
        call(counting_split(10), length=11, **options)


def test_rows_need_a_length():
    with pytest.raises(ValueError, match="length: expected at least 1, got 0"):
        sample_batch(counting_split(10), batch=1, length=0, seed=0, step=0)
    with pytest.raises(ValueError, match="length: expected at least 2"):
        windows(counting_split(10), 1)


@settings(max_examples=200, deadline=None)
@given(st.integers(2, 40), st.integers(0, 200))
def test_windows_count_every_token_but_the_first_once(length, extra):
    split = counting_split(length + extra)
    cut = windows(split, length)
    assert cut.tokens.shape == cut.counted.shape == cut.domains.shape
    counted = cut.tokens[cut.counted]
    assert sorted(counted.tolist()) == list(range(1, split.n_tokens))
    assert not cut.counted[:, 0].any()
    assert torch.equal(cut.tokens, cut.tokens[:, :1] + torch.arange(length))
    assert torch.equal(cut.domains, cut.tokens % 3)


def test_windows_are_no_more_than_needed():
    assert len(windows(counting_split(101), 11).tokens) == 10
    assert len(windows(counting_split(102), 11).tokens) == 11


def test_one_domain_keeps_its_order():
    part = domain_split(counting_split(10), 1)
    assert part.tokens.tolist() == [1, 4, 7]
    assert part.n_bytes == 12 and set(part.domains.tolist()) == {1}


def test_bytes_per_token_turns_loss_into_bits_per_byte():
    split = counting_split(50)
    assert split.bytes_per_token == 4.0
    assert bits_per_byte(math.log(2) * 4, split.bytes_per_token) == pytest.approx(1.0)
    # A model that guesses bytes uniformly pays eight bits for each.
    assert bits_per_byte(math.log(256), 1.0) == pytest.approx(8.0)
