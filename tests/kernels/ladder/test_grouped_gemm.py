"""Every step of the ladder computes the same grouped product, with the traffic in its header."""

import pytest
import torch

from tests.kernels.test_sort_rows import EDGES

STEPS = [1, 2, 3, 4, 5]


def case(counts, d_in, d_out, rows_behind=0):
    """Return (x, w, offsets, expected): rows sorted by expert, some past the last expert."""
    offsets = torch.tensor([0, *counts]).cumsum(0)
    n_rows = int(offsets[-1]) + rows_behind
    x = torch.randn(n_rows, d_in).bfloat16()
    w = (torch.randn(len(counts), d_out, d_in) / d_in**0.5).bfloat16()
    expected = torch.zeros(n_rows, d_out)
    for e in range(len(counts)):
        here = slice(offsets[e], offsets[e + 1])
        expected[here] = x[here].float() @ w[e].float().T
    return x, w, offsets, expected


def run_step(kernels, step, x, w, offsets, run=None):
    experts, d_out, d_in = w.shape
    out = kernels.output("out", (len(x), d_out), torch.bfloat16)
    inputs = [kernels.input(n, t) for n, t in (("x", x), ("w", w), ("offsets", offsets))]
    run = run or kernels.call
    traffic = run(f"grouped_gemm_{step}", *inputs, out, len(x), experts, d_in, d_out)
    assert kernels.unwritten(out) == 0
    return out, traffic


def assert_product(kernels, step, *shape, **more):
    x, w, offsets, expected = case(*shape, **more)
    out, _ = run_step(kernels, step, x, w, offsets)
    torch.testing.assert_close(out.float(), expected, atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("step", STEPS)
class TestEveryStep:
    def test_edge_counts(self, kernels, step):
        assert_product(kernels, step, EDGES, 24, 40, rows_behind=3)

    @pytest.mark.parametrize(("d_in", "d_out"), [(8, 8), (32, 64), (40, 72), (264, 136)])
    def test_widths_that_fill_tiles_and_others(self, kernels, step, d_in, d_out):
        assert_product(kernels, step, [70, 0, 5], d_in, d_out)

    def test_all_rows_past_the_experts(self, kernels, step):
        assert_product(kernels, step, [0, 0], 16, 16, rows_behind=5)

    def test_no_rows(self, kernels, step):
        assert_product(kernels, step, [0, 0], 16, 16)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((4, 2, 12, 16), "d_in: expected a multiple of 8 up to 2^20, got 12"),
            ((4, 2, 16, 20), "d_out: expected a multiple of 8 up to 2^20, got 20"),
            ((4, 0, 16, 16), "n_experts: expected 1 to 65536, got 0"),
            ((2**40, 2, 16, 16), "n_rows: expected 0 to 2^31 - 1"),
        ],
    )
    def test_bad_arguments_are_refused_by_name(self, kernels, step, arguments, message):
        with pytest.raises(ValueError) as error:
            kernels.call(f"grouped_gemm_{step}", None, None, None, None, *arguments)
        assert message in str(error.value)


def traffic_of(kernels, step):
    x, w, offsets, _ = case([64], 64, 64)
    return run_step(kernels, step, x, w, offsets, kernels.recorded)[1]


def test_naive_uses_a_sixteenth_of_the_sectors_of_w(kernels):
    (read,) = (t for t in traffic_of(kernels, 1) if t.buffer == "w")
    assert read.sectors == 16 * read.best_sectors


def test_tiles_move_every_element_once(kernels):
    traffic = [t for t in traffic_of(kernels, 2) if t.buffer in "xw"]
    assert [t.bytes for t in traffic] == [2 * 64 * 64] * 2
    assert all(t.sectors == t.best_sectors for t in traffic)


@pytest.mark.parametrize("step", [2, 3, 4, 5])
def test_shared_memory_is_read_without_bank_conflicts(kernels, step):
    reads = [t for t in traffic_of(kernels, step) if t.space == "shared" and t.access == "read"]
    assert reads and all(t.wavefronts == t.best_wavefronts for t in reads)


def test_padded_rows_conflict_where_copies_arrive_and_swizzled_ones_do_not(kernels):
    def conflicts(step):
        stores = [
            t for t in traffic_of(kernels, step) if t.space == "shared" and t.access == "write"
        ]
        assert stores
        return any(t.wavefronts > t.best_wavefronts for t in stores)

    assert [conflicts(step) for step in (3, 4, 5)] == [True, True, False]


def test_large_tiles_fetch_x_and_w_half_as_often(kernels):
    x, w, offsets, _ = case([128], 64, 128)

    def fetched(step):
        traffic = run_step(kernels, step, x, w, offsets, kernels.recorded)[1]
        return sum(t.bytes for t in traffic if t.buffer in "xw" and t.space == "global")

    assert [fetched(step) for step in (4, 5)] == [2 * 2 * 128 * 64 * 2, 2 * 128 * 64 * 2]
