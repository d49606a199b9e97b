"""The compiled combine equals the obvious sum, and touches nothing else."""

import pytest
import torch

from mini_moe.checker import DTYPES
from mini_moe.ops import sort_rows
from tests.kernels.test_sort_rows import EDGES, distinct, shuffled

TOLERANCE = {torch.float32: dict(atol=1e-5, rtol=1e-5), torch.bfloat16: dict(atol=2e-2, rtol=1e-2)}


def oracle(y, place, gates):
    """Sum one token, one choice at a time."""
    out = torch.zeros(len(place), y.shape[1])
    for t, row in enumerate(place):
        for k, r in enumerate(row):
            out[t] += gates[t, k] * y[r].float()
    return out


def run_combine(kernels, y, place, gates):
    out = kernels.output("out", (len(place), y.shape[1]), y.dtype)
    kernels.call(
        "combine_forward",
        kernels.input("y", y),
        DTYPES[y.dtype],
        kernels.input("place", place),
        None if gates is None else kernels.input("gates", gates),
        out,
        len(place),
        *y.shape,
        place.shape[1],
    )
    assert kernels.unwritten(out) == 0
    return out


def case(ids, experts, d_model, dtype, multiple=1):
    rows = sort_rows(ids, experts, multiple)
    y = torch.randn(len(rows.token), d_model).to(dtype)
    return y, rows, torch.rand(ids.shape)


def assert_forward(kernels, y, rows, gates):
    out = run_combine(kernels, y, rows.place, gates)
    torch.testing.assert_close(out.float(), oracle(y, rows.place, gates), **TOLERANCE[y.dtype])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("multiple", [1, 64])
def test_edge_counts(kernels, multiple, dtype):
    y, rows, gates = case(shuffled(EDGES), len(EDGES), 16, dtype, multiple)
    assert_forward(kernels, y, rows, gates)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("top_k", [*range(1, 9), 32])
def test_every_top_k(kernels, top_k, dtype):
    y, rows, gates = case(distinct(21, top_k, 40, skew=1.0), 40, 24, dtype)
    assert_forward(kernels, y, rows, gates)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("d_model", [1, 2, 7, 8, 12, 63, 130, 1024, 2056])
def test_every_width(kernels, d_model, dtype):
    """Widths that fill 16-byte vectors and that don't; shorter and longer than a block."""
    y, rows, gates = case(distinct(5, 2, 6), 6, d_model, dtype)
    assert_forward(kernels, y, rows, gates)


def test_misaligned_rows_take_the_narrow_path(kernels):
    y, rows, gates = case(distinct(9, 2, 6), 6, 16, torch.float32)
    shifted = kernels.input("y", torch.cat((torch.zeros(1), y.flatten())))[1:].view(y.shape)
    out = kernels.output("out", (9, 16), torch.float32)
    place, weights = kernels.input("place", rows.place), kernels.input("gates", gates)
    kernels.call("combine_forward", shifted, 0, place, weights, out, 9, *y.shape, 2)
    torch.testing.assert_close(out, oracle(y, rows.place, gates))


def test_without_gates_it_is_the_gradient_of_the_gather(kernels):
    ids = distinct(15, 4, 8)
    rows = sort_rows(ids, 8, 16)
    x = torch.randn(15, 8, requires_grad=True)
    grad_rows = torch.randn(len(rows.token), 8)
    real = torch.zeros(len(rows.token), dtype=torch.bool)
    real[rows.place] = True
    (x[rows.token] * grad_rows * real[:, None]).sum().backward()
    torch.testing.assert_close(run_combine(kernels, grad_rows, rows.place, None), x.grad)


def test_skipped_choices_add_nothing(kernels):
    y, rows, gates = case(distinct(9, 3, 6), 6, 16, torch.float32)
    place = rows.place.clone()
    place[2, 1], place[5] = -1, len(y) + 7
    kept = torch.where((place >= 0) & (place < len(y)), gates, 0)
    out = run_combine(kernels, y, place, gates)
    torch.testing.assert_close(out, oracle(y, rows.place, kept))
    assert out[5].eq(0).all()


@pytest.mark.parametrize("tokens", [0, 1])
def test_smallest(kernels, tokens):
    y, rows, gates = case(distinct(tokens, 2, 4), 4, 8, torch.float32)
    assert run_combine(kernels, y, rows.place, gates).shape == (tokens, 8)


def test_more_than_two_to_the_31_elements(kernels):
    """Use a row past element 2^31; only touched pages exist."""
    d_model, n_rows = 1 << 16, (1 << 15) + 8
    y = kernels.buffer("y", (n_rows, d_model), torch.bfloat16, writable=True, written=False)
    row = n_rows - 2
    assert row * d_model > 2**31
    address = y[row].data_ptr() - y.data_ptr()
    kernels.fill(y, address, 2 * d_model)
    y[row] = torch.randn(d_model).bfloat16()
    out = kernels.output("out", (1, d_model), torch.bfloat16)
    place = kernels.input("place", torch.tensor([[row]]))
    kernels.call("combine_forward", y, 1, place, None, out, 1, n_rows, d_model, 1)
    assert out[0].equal(y[row])


def test_order_of_threads_and_blocks_does_not_matter(kernels):
    y, rows, gates = case(distinct(33, 5, 9), 9, 40, torch.float32)
    forward = run_combine(kernels, y, rows.place, gates)
    with kernels.reversed_order():
        assert run_combine(kernels, y, rows.place, gates).equal(forward)


def test_rows_are_read_and_written_whole(kernels):
    """Every sector moved is used: 16 bytes per lane, contiguous."""
    y, rows, gates = case(distinct(16, 2, 4), 4, 256, torch.bfloat16)
    out = kernels.output("out", (16, 256), torch.bfloat16)
    traffic = kernels.recorded(
        "combine_forward", kernels.input("y", y), 1, kernels.input("place", rows.place),
        kernels.input("gates", gates), out, 16, *y.shape, 2,
    )  # fmt: skip
    read = next(t for t in traffic if t.buffer == "y")
    assert read.bytes == 16 * 2 * 256 * 2
    assert read.sectors == read.best_sectors == read.bytes // 32


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((4, 8, 16, 0), "top_k: expected 1 to 1024, got 0"),
        ((4, 8, 0, 2), "d_model: expected at least 1, got 0"),
        ((-1, 8, 16, 2), "n_tokens: expected 0 to"),
        ((4, -3, 16, 2), "n_rows: expected a size that fits 64 bits, got -3"),
    ],
)
def test_bad_arguments_are_refused_by_name(kernels, arguments, message):
    with pytest.raises(ValueError) as error:
        kernels.call("combine_forward", None, 0, None, None, None, *arguments)
    assert message in str(error.value)
