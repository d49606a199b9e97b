"""Sorting rows by expert: properties that hold for random routings."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mini_moe.ops import sort_rows


@st.composite
def routings(draw):
    """Draw any valid ids, including unused experts, repeated choices and no tokens."""
    experts = draw(st.integers(1, 13))
    shape = (draw(st.integers(0, 30)), draw(st.integers(1, 8)))
    ids = draw(arrays.arrays("int64", shape, elements=st.integers(0, experts - 1)))
    return torch.from_numpy(ids), experts, draw(st.sampled_from([1, 2, 4, 8]))


@given(routings())
def test_every_choice_has_one_row_in_its_experts_block(case):
    ids, experts, multiple = case
    rows = sort_rows(ids, experts, multiple)
    assert rows.place.shape == ids.shape
    assert len(set(rows.place.flatten().tolist())) == ids.numel()
    assert (rows.offsets[ids] <= rows.place).all()
    assert (rows.place < rows.offsets[ids + 1]).all()


@given(routings())
def test_row_leads_back_to_its_token(case):
    ids, experts, multiple = case
    rows = sort_rows(ids, experts, multiple)
    tokens = torch.arange(len(ids))[:, None].expand_as(ids)
    assert torch.equal(rows.token[rows.place], tokens)


@given(routings())
def test_counts_add_up_to_tokens_times_choices(case):
    ids, experts, multiple = case
    counts = sort_rows(ids, experts, multiple).counts
    assert counts.sum() == ids.numel()
    assert counts.tolist() == [(ids == expert).sum().item() for expert in range(experts)]


@given(routings())
def test_blocks_are_the_counts_rounded_up(case):
    ids, experts, multiple = case
    rows = sort_rows(ids, experts, multiple)
    sizes = rows.offsets.diff()
    assert rows.offsets[0] == 0 and rows.offsets[-1] == len(rows.token)
    assert (sizes % multiple == 0).all()
    assert ((sizes - rows.counts >= 0) & (sizes - rows.counts < multiple)).all()


@given(routings())
def test_tokens_keep_their_order_within_an_expert(case):
    ids, experts, _ = case
    rows = sort_rows(ids, experts)
    for start, end in zip(rows.offsets[:-1].tolist(), rows.offsets[1:].tolist(), strict=True):
        assert (rows.token[start:end].diff() >= 0).all()


@pytest.mark.parametrize("bad", [-1, 3])
def test_id_out_of_range_is_named(bad):
    with pytest.raises(ValueError, match=r"expert_ids must lie in \[0, 3\)"):
        sort_rows(torch.tensor([[0, bad]]), 3)
