"""The compiled weight gradients equal one product aᵀ b per expert, zero without rows."""

import pytest
import torch

from mini_moe.checker import DTYPES
from tests.kernels.grouped import (
    WIDTHS,
    assert_close,
    inputs,
    offsets_of,
    random,
    some_rows,
    taken,
    type_of,
    uses_every_byte,
)
from tests.kernels.test_sort_rows import EDGES

CONFIGURATIONS = range(3)
INDEXED = [(False, False), (True, False), (False, True), (True, True)]


def run(kernels, a, a_row, b, b_row, offsets, n_rows, *, configuration=-1, call=None):
    """Return (out, the result of `call`); `a` may already be in watched memory."""
    experts, m, n = len(offsets) - 1, a.shape[1], b.shape[1]
    out = kernels.output("out", (experts, m, n), a.dtype)
    a_row_, b_, b_row_, offsets_ = inputs(kernels, a_row=a_row, b=b, b_row=b_row, offsets=offsets)
    traffic = (call or kernels.call)(
        "grouped_wgrad_configured", configuration, a, a_row_, len(a), b_, b_row_, len(b),
        type_of(a), offsets_, out, n_rows, experts, m, n,
    )  # fmt: skip
    assert kernels.unwritten(out) == 0
    return out, traffic


def expected_of(a, a_row, b, b_row, offsets, n_rows):
    a, b = taken(a, a_row, n_rows), taken(b, b_row, n_rows)
    pairs = zip(offsets[:-1], offsets[1:], strict=True)
    return torch.stack([a[first:end].T @ b[first:end] for first, end in pairs])


def assert_gradient(kernels, counts, m, n, *, dtype=torch.bfloat16, indexed=(True, True), **more):
    offsets = offsets_of(counts)
    n_rows = int(offsets[-1])
    scale = max(1, n_rows) ** -0.5
    sides = []
    for width, by_index in zip((m, n), indexed, strict=True):
        source = random(23 if by_index else n_rows, width, dtype=dtype) * scale**0.5
        sides += [source, some_rows(n_rows, len(source)) if by_index else None]
    out, _ = run(kernels, kernels.input("a", sides[0]), *sides[1:], offsets, n_rows, **more)
    assert_close(out, expected_of(*sides, offsets, n_rows))


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
class TestEveryConfiguration:
    def test_edge_counts(self, kernels, configuration):
        assert_gradient(kernels, EDGES, 40, 24, configuration=configuration)

    @pytest.mark.parametrize("indexed", INDEXED)
    def test_more_steps_than_stages(self, kernels, configuration, indexed):
        assert_gradient(
            kernels, [3, 0, 331], 136, 264, indexed=indexed, configuration=configuration
        )

    def test_every_byte_that_moves_is_used_without_bank_conflicts(self, kernels, configuration):
        a, b = random(64, 128, dtype=torch.bfloat16), random(64, 256, dtype=torch.bfloat16)
        _, traffic = run(
            kernels, kernels.input("a", a), torch.randperm(64), b, None, offsets_of([64]), 64,
            configuration=configuration, call=kernels.recorded,
        )  # fmt: skip
        assert uses_every_byte(traffic, ["a", "b", "out"])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
class TestBothTypes:
    @pytest.mark.parametrize(("m", "n"), WIDTHS)
    def test_every_width(self, kernels, m, n, dtype):
        assert_gradient(kernels, [70, 0, 5], m, n, dtype=dtype)

    @pytest.mark.parametrize("indexed", INDEXED)
    def test_edge_counts(self, kernels, indexed, dtype):
        assert_gradient(kernels, EDGES, 24, 16, dtype=dtype, indexed=indexed)

    @pytest.mark.parametrize("counts", [[0], [0, 0, 0], [1], [0, 1]])
    def test_experts_without_rows_give_zeros(self, kernels, counts, dtype):
        assert_gradient(kernels, counts, 16, 8, dtype=dtype)

    def test_no_rows_and_no_operands(self, kernels, dtype):
        out = kernels.output("out", (2, 16, 8), dtype)
        (offsets,) = inputs(kernels, offsets=offsets_of([0, 0]))
        kernels.call(
            "grouped_wgrad", None, None, 0, None, None, 0, DTYPES[dtype], offsets, out, 0, 2, 16, 8
        )
        assert out.eq(0).all()

    def test_order_of_threads_and_blocks_does_not_matter(self, kernels, dtype):
        a, b = kernels.input("a", random(9, 40, dtype=dtype)), random(9, 72, dtype=dtype)
        case = a, some_rows(135, 9), b, some_rows(135, 9), offsets_of([70, 0, 65]), 135
        forward, _ = run(kernels, *case)
        with kernels.reversed_order():
            assert run(kernels, *case)[0].equal(forward)

    @pytest.mark.parametrize("offsets", [[0, 9, 4, 12], [0, -7, 40, 99], [2**62, -1, 5, -(2**62)]])
    def test_offsets_that_do_not_fit_are_clamped(self, kernels, offsets, dtype):
        a, b = random(12, 16, dtype=dtype), random(12, 24, dtype=dtype)
        out, _ = run(kernels, kernels.input("a", a), None, b, None, torch.tensor(offsets), 12)
        inside = torch.tensor(offsets).clamp(0, 12)
        assert_close(out, expected_of(a, None, b, None, inside, 12))


def test_misaligned_buffers_take_the_plain_kernel(kernels):
    a, b = random(5, 16, dtype=torch.bfloat16), random(5, 8, dtype=torch.bfloat16)
    shifted = kernels.input("a", torch.cat((torch.zeros(1).bfloat16(), a.flatten())))[1:]
    out, _ = run(kernels, shifted.view(5, 16), None, b, None, offsets_of([5]), 5)
    assert_close(out, expected_of(a, None, b, None, offsets_of([5]), 5))


def test_source_rows_past_element_two_to_the_31(kernels):
    n_a, m = (1 << 22) + 8, 1 << 9
    a = kernels.buffer("a", (n_a, m), torch.bfloat16, writable=True, written=False)
    row = n_a - 2
    assert row * m > 2**31
    kernels.fill(a, row * m * 2, m * 2)
    a[row] = random(m, dtype=torch.bfloat16)
    b = random(2, 16, dtype=torch.bfloat16)
    out, _ = run(kernels, a, torch.tensor([-1, row]), b, None, offsets_of([2]), 2)
    assert_close(out[0], torch.outer(a[row].float(), b[1].float()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(type=-1), "type: expected fp32 (0) or bf16 (1), got -1"),
        (dict(n_rows=2**31), "n_rows: expected 0 to 2^31 - 1, got 2147483648"),
        (dict(n_a=3), "n_a: expected at least n_rows=4 without an index, got 3"),
        (dict(n_b=-1), "n_b: expected 0 to 2^31 - 1, got -1"),
        (dict(n_experts=0), "n_experts: expected 1 to 65536, got 0"),
        (dict(m=0), "m: expected 1 to 2^20, got 0"),
        (dict(n=2**21), "n: expected 1 to 2^20, got 2097152"),
        (dict(configuration=-2), "configuration: expected -1 to 2, got -2"),
        (dict(a=None), "a: expected an address, got null"),
        (dict(out=None), "out: expected an address, got null"),
        (dict(n_experts=65536, m=2**20, n=2**20), "sizes: expected at most 2^31 - 1 tiles"),
    ],
)
def test_bad_arguments_are_refused_by_name(kernels, change, message):
    v = dict(configuration=-1, type=1, n_a=4, n_b=4, n_rows=4, n_experts=2, m=16, n=16) | change
    place = kernels.output("place", (1,), torch.float32)
    a, out = v.get("a", place), v.get("out", place)
    with pytest.raises(ValueError) as error:
        kernels.call(
            "grouped_wgrad_configured", v["configuration"], a, None, v["n_a"], place, None,
            v["n_b"], v["type"], place, out, v["n_rows"], v["n_experts"], v["m"], v["n"],
        )  # fmt: skip
    assert message in str(error.value)


def test_there_are_as_many_configurations_as_are_tested(kernels):
    assert kernels.library.grouped_wgrad_configurations() == len(CONFIGURATIONS)
