"""The compiled sort equals `mini_moe.ops.sort_rows`: same places, whatever the counts."""

import pytest
import torch

from mini_moe.ops import sort_rows

EDGES = [0, 1, 63, 64, 65, 127, 129]  # rows per expert


def run_sort(kernels, expert_ids, n_experts, multiple=1):
    """Return the kernel's (token, place, counts, offsets); `token` with all of its memory."""
    tokens, top_k = expert_ids.shape
    n_rows = tokens * top_k
    room = kernels.library.sort_rows_room(n_rows, n_experts, multiple)
    workspace = kernels.library.sort_rows_workspace(n_rows, n_experts)
    outputs = [
        kernels.output(name, shape, torch.int64)
        for name, shape in (
            ("token", (room,)),
            ("place", (tokens, top_k)),
            ("counts", (n_experts,)),
            ("offsets", (n_experts + 1,)),
        )
    ]
    kernels.call(
        "sort_rows",
        kernels.input("expert_ids", expert_ids),
        *outputs,
        kernels.output("workspace", (workspace,), torch.int32),
        tokens,
        top_k,
        n_experts,
        multiple,
    )
    assert not any(map(kernels.unwritten, outputs))
    return outputs


def assert_same_order(kernels, expert_ids, n_experts, multiple=1):
    token, place, counts, offsets = run_sort(kernels, expert_ids, n_experts, multiple)
    expected = sort_rows(expert_ids, n_experts, multiple)
    assert counts.equal(expected.counts)
    assert offsets.equal(expected.offsets)
    assert place.equal(expected.place)
    n_rows = len(expected.token)
    assert token[:n_rows].equal(expected.token)
    assert token[n_rows:].eq(0).all()


def shuffled(counts):
    """Return [rows, 1] ids with these counts, in random order."""
    ids = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    return ids[torch.randperm(len(ids))].unsqueeze(1)


def distinct(tokens, top_k, experts, skew=0.0):
    """Return distinct ids per token; with `skew`, low ids are the most frequent."""
    preference = torch.rand(tokens, experts) + skew * torch.linspace(1, 0, experts)
    return preference.argsort(dim=-1, descending=True)[:, :top_k]


@pytest.mark.parametrize("multiple", [1, 64])
@pytest.mark.parametrize("first", range(len(EDGES)))
def test_every_count_in_every_position(kernels, first, multiple):
    counts = EDGES[first:] + EDGES[:first]
    assert_same_order(kernels, shuffled(counts), len(counts), multiple)


@pytest.mark.parametrize("top_k", [*range(1, 9), 32])
def test_every_top_k(kernels, top_k):
    assert_same_order(kernels, distinct(37, top_k, 40), 40)


@pytest.mark.parametrize("experts", [1, 31, 32, 33, 256, 1000, 1024])
def test_every_number_of_experts(kernels, experts):
    assert_same_order(kernels, distinct(90, min(experts, 6), experts), experts)


@pytest.mark.parametrize("tokens", [1, 255, 256, 257, 700])
def test_several_blocks_keep_the_order_of_tokens(kernels, tokens):
    assert_same_order(kernels, distinct(tokens, 4, 8), 8)


@pytest.mark.parametrize("skew", [1.0, 10.0])
def test_skewed_routing(kernels, skew):
    assert_same_order(kernels, distinct(300, 4, 64, skew), 64, multiple=16)


def test_one_expert_takes_all(kernels):
    assert_same_order(kernels, torch.full((1500, 1), 5), 9, multiple=128)


@pytest.mark.parametrize("multiple", [1, 8])
def test_no_tokens(kernels, multiple):
    token, _, counts, offsets = run_sort(kernels, torch.zeros(0, 4, dtype=torch.long), 8, multiple)
    assert len(token) == 0
    assert counts.eq(0).all() and offsets.eq(0).all()


def test_ids_out_of_range_are_skipped(kernels):
    ids = distinct(50, 4, 16)
    ids[3, 1], ids[20, 0], ids[49, 3], ids[7] = -1, 16, 2**40, -(2**62)
    _, place, counts, offsets = run_sort(kernels, ids, 16)
    inside = (ids >= 0) & (ids < 16)
    assert place[~inside].eq(-1).all()
    assert place[inside].sort().values.equal(torch.arange(int(inside.sum())))
    assert counts.equal(ids[inside].bincount(minlength=16))
    assert offsets[-1] == inside.sum()


def test_order_of_threads_and_blocks_does_not_matter(kernels):
    ids = distinct(700, 3, 20)
    forward = run_sort(kernels, ids, 20, 8)
    with kernels.reversed_order():
        backward = run_sort(kernels, ids, 20, 8)
    assert all(a.equal(b) for a, b in zip(forward, backward, strict=True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((4, 2, 0, 1), "n_experts: expected 1 to 1024, got 0"),
        ((4, 2, 2000, 1), "n_experts: expected 1 to 1024, got 2000"),
        ((4, 9, 8, 1), "top_k: expected 1 to n_experts=8, got 9"),
        ((4, 2, 8, 0), "multiple: expected 1 to 65536, got 0"),
        ((2**31, 2, 8, 1), "n_tokens: expected 0 to 1073741819"),
        ((-1, 2, 8, 1), "n_tokens: expected 0 to"),
    ],
)
def test_bad_arguments_are_refused_by_name(kernels, arguments, message):
    with pytest.raises(ValueError) as error:
        kernels.call("sort_rows", *[None] * 6, *arguments)
    assert message in str(error.value)
