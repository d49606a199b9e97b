"""Causal attention compared with a softmax written out in full."""

import pytest
import torch

from mini_moe.ops import attention, causal_attention
from tests.helpers import TOLERANCE, relative_error, without_shape_hook

WIDTHS = [(8, 4), (8, 8), (4, 8)]  # queries and keys, values
LENGTHS = [(1, 1), (7, 7), (1, 9), (3, 9), (130, 130), (129, 300)]  # queries, keys


def random_case(widths, lengths, dtype=torch.float32):
    (d_qk, d_v), (queries, keys) = widths, lengths
    draw = torch.Generator().manual_seed(0)
    shapes = [(2, 3, queries, d_qk), (2, 3, keys, d_qk), (2, 3, keys, d_v)]
    return [torch.randn(s, generator=draw).to(dtype).requires_grad_() for s in shapes]


def explicit(query, key, value, scale):
    """Compute every weight in float64; a query sees keys up to its own position."""
    query, key, value = query.double(), key.double(), value.double()
    scores = torch.einsum("bhqd,bhkd->bhqk", query, key) * scale
    position = torch.arange(key.shape[2])
    own = position[-query.shape[2] :] if query.shape[2] else position[:0]
    scores = scores.masked_fill(position > own[:, None], float("-inf"))
    return torch.einsum("bhqk,bhkd->bhqd", scores.softmax(-1), value)


@pytest.fixture(params=["explicit", "flash"])
def path(request, monkeypatch):
    """Run both code paths, which normally depend on the length."""
    longest = 10**9 if request.param == "explicit" else 0
    monkeypatch.setattr(attention, "LONGEST_EXPLICIT", longest)


@pytest.mark.parametrize("widths", WIDTHS, ids=str)
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_attention_is_the_softmax_written_out(widths, lengths, dtype, path):
    inputs = random_case(widths, lengths, dtype)
    output, expected = causal_attention(*inputs, 0.3), explicit(*inputs, 0.3)
    assert output.dtype == dtype
    assert relative_error(output, expected) <= TOLERANCE[dtype]
    weights = torch.linspace(-1, 1, output.numel()).view_as(output)
    ours = torch.autograd.grad((output * weights).sum(), inputs)
    theirs = torch.autograd.grad((expected * weights).sum(), inputs)
    for one, two in zip(ours, theirs, strict=True):
        # with a single key its weight is always 1, so the query's gradient is exactly zero
        assert relative_error(one, two) <= 2 * TOLERANCE[dtype] or not two.any()


@pytest.mark.parametrize("lengths", [(4, 4), (2, 5)], ids=str)
def test_gradients_match_finite_differences(lengths, path):
    inputs = random_case((4, 3), lengths, torch.float64)
    assert torch.autograd.gradcheck(lambda *qkv: causal_attention(*qkv, 0.5), inputs)


def test_later_keys_do_not_change_earlier_outputs(path):
    query, key, value = random_case((8, 4), (140, 140))
    before = causal_attention(query, key, value, 0.3)
    key, value = key.detach().clone(), value.detach().clone()
    key[:, :, 100:] = 1e3
    value[:, :, 100:] = -1e3
    after = causal_attention(query, key, value, 0.3)
    assert torch.equal(before[:, :, :100], after[:, :, :100])


def test_the_same_input_gives_the_same_bits(path):
    inputs = random_case((8, 4), (200, 200))
    first = causal_attention(*inputs, 0.3)
    gradients = torch.autograd.grad(first.sum(), inputs, retain_graph=True)
    again = causal_attention(*inputs, 0.3)
    assert torch.equal(first, again)
    for one, two in zip(gradients, torch.autograd.grad(again.sum(), inputs), strict=True):
        assert torch.equal(one, two)


def test_autocast_accepts_single_precision_and_returns_its_gradients(path):
    inputs = random_case((8, 4), (30, 30))
    with torch.autocast("cpu", torch.bfloat16):
        output = causal_attention(*inputs, 0.3)
    assert relative_error(output, explicit(*inputs, 0.3)) <= TOLERANCE[torch.bfloat16]
    for gradient in torch.autograd.grad(output.float().sum(), inputs):
        assert gradient.dtype == torch.float32 and gradient.isfinite().all()


def test_more_queries_than_keys_are_refused(path):
    query, key, value = random_case((8, 4), (5, 3))
    with without_shape_hook(), pytest.raises(ValueError, match="query"):
        causal_attention(query, key, value, 0.3)


@pytest.mark.compile
@pytest.mark.parametrize("keys", [40, 1100])
def test_attention_compiles_without_a_break(keys):
    inputs = random_case((8, 4), (keys, keys))
    compiled = torch.compile(causal_attention, fullgraph=True)(*inputs, 0.3)
    assert relative_error(compiled, causal_attention(*inputs, 0.3)) <= TOLERANCE[torch.float32]
