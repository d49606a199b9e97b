"""The compiled grouped product equals one matrix product per expert, and touches nothing else."""

import ctypes

import pytest
import torch

from mini_moe.checker import DTYPES, build
from tests.kernels.grouped import (
    WIDTHS,
    assert_close,
    inputs,
    offsets_of,
    products,
    random,
    some_rows,
    taken,
    type_of,
    uses_every_byte,
)
from tests.kernels.test_sort_rows import EDGES

CONFIGURATIONS = range(5)
TRANSPOSED = pytest.mark.parametrize("transposed", [False, True])


def run(kernels, a, a_row, b, offsets, n_rows, transposed, configuration=-1, call=None):
    """Return (out, the result of `call`); `a` may already be in watched memory."""
    experts, k, n = b.shape
    weights = b.mT.contiguous() if transposed else b
    out = kernels.output("out", (n_rows, n), a.dtype)
    row_, b_, offsets_ = inputs(kernels, a_row=a_row, b=weights, offsets=offsets)
    traffic = (call or kernels.call)(
        "grouped_gemm_configured", configuration, a, type_of(a), row_, len(a), b_, offsets_, out,
        n_rows, experts, k, n, int(transposed),
    )  # fmt: skip
    assert kernels.unwritten(out) == 0
    return out, traffic


def assert_product(kernels, counts, k, n, transposed, *, dtype=torch.bfloat16, indexed=True,
                   behind=0, configuration=-1):  # fmt: skip
    offsets = offsets_of(counts)
    n_rows = int(offsets[-1]) + behind
    a = random(29 if indexed else n_rows, k, dtype=dtype)
    a_row = some_rows(n_rows, len(a)) if indexed else None
    b = random(len(counts), k, n, dtype=dtype) / k**0.5
    out, _ = run(
        kernels, kernels.input("a", a), a_row, b, offsets, n_rows, transposed, configuration
    )
    assert_close(out, products(taken(a, a_row, n_rows), b, offsets))


@TRANSPOSED
@pytest.mark.parametrize("configuration", CONFIGURATIONS)
class TestEveryConfiguration:
    def test_edge_counts(self, kernels, configuration, transposed):
        assert_product(kernels, EDGES, 40, 24, transposed, behind=3, configuration=configuration)

    def test_more_steps_than_stages(self, kernels, configuration, transposed):
        assert_product(
            kernels, [70, 0, 131], 328, 136, transposed, indexed=False, configuration=configuration
        )

    def test_every_byte_that_moves_is_used_without_bank_conflicts(
        self, kernels, configuration, transposed
    ):
        a, b = random(128, 64, dtype=torch.bfloat16), random(1, 64, 128, dtype=torch.bfloat16)
        _, traffic = run(
            kernels, kernels.input("a", a), torch.randperm(128), b, offsets_of([128]), 128,
            transposed, configuration, call=kernels.recorded,
        )  # fmt: skip
        assert uses_every_byte(traffic, ["a", "b", "out"])


@TRANSPOSED
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
class TestBothTypes:
    @pytest.mark.parametrize(("k", "n"), WIDTHS)
    def test_every_width(self, kernels, k, n, transposed, dtype):
        assert_product(kernels, [70, 0, 5], k, n, transposed, dtype=dtype)

    def test_edge_counts(self, kernels, transposed, dtype):
        assert_product(kernels, EDGES, 24, 16, transposed, dtype=dtype, behind=2)

    def test_skewed_rows_without_index(self, kernels, transposed, dtype):
        counts = [0, 200, 0, 0, 3, 1, 0]
        assert_product(kernels, counts, 16, 24, transposed, dtype=dtype, indexed=False)

    def test_more_experts_than_a_warp_looks_at_once(self, kernels, transposed, dtype):
        counts = [0] * 1100
        counts[0], counts[31], counts[33], counts[1023], counts[1099] = 1, 2, 70, 1, 3
        assert_product(kernels, counts, 8, 8, transposed, dtype=dtype, behind=1)

    @pytest.mark.parametrize("behind", [0, 1, 12, 70])
    def test_few_rows_for_many_experts_get_one_block_each(self, kernels, behind, transposed, dtype):
        """As in decoding: 256 experts, one of which has more rows than any tile."""
        counts = [0] * 256
        counts[0], counts[7], counts[8], counts[255] = 2, 16, 1, 130
        assert_product(kernels, counts, 16, 8, transposed, dtype=dtype, behind=behind)

    @pytest.mark.parametrize(("counts", "behind"), [([0, 0], 0), ([0, 0], 5), ([1], 0)])
    def test_smallest(self, kernels, counts, behind, transposed, dtype):
        assert_product(kernels, counts, 8, 8, transposed, dtype=dtype, behind=behind)

    def test_order_of_threads_and_blocks_does_not_matter(self, kernels, transposed, dtype):
        a, b = random(9, 40, dtype=dtype), random(3, 40, 72, dtype=dtype)
        case = kernels.input("a", a), some_rows(135, 9), b, offsets_of([70, 0, 65]), 135, transposed
        forward, _ = run(kernels, *case)
        with kernels.reversed_order():
            assert run(kernels, *case)[0].equal(forward)


@TRANSPOSED
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "offsets",
    [
        [0, 9, 4, 12],
        [0, -7, 40, 99],
        [5, 5, 12, 12],
        [-(2**62), 2**62, 3, -1],
        [4, *[9] * 5, 2, *[-1] * 6, 2**62, *[12] * 6],  # a block per row
    ],
    ids=str,
)
def test_offsets_that_do_not_fit_stay_inside_the_buffers(kernels, offsets, transposed, dtype):
    experts = len(offsets) - 1
    a, b = random(12, 16, dtype=dtype), random(experts, 16, 24, dtype=dtype)
    out = kernels.output("out", (12, 24), dtype)
    a_, b_, offsets_ = inputs(kernels, a=a, b=b, offsets=torch.tensor(offsets))
    try:
        kernels.call(
            "grouped_gemm", a_, type_of(a), None, 12, b_, offsets_, out, 12, experts, 16, 24,
            transposed,
        )  # fmt: skip
    except AssertionError as error:  # two experts may claim one row: a race, but inside the buffer
        assert {report.kind for report in error.reports} == {"race"}


@pytest.mark.parametrize("moved", ["a", "b", "out"])
def test_misaligned_buffers_take_the_plain_kernel(kernels, moved):
    a, b = random(5, 16, dtype=torch.bfloat16), random(1, 16, 8, dtype=torch.bfloat16)
    out = kernels.output("out", (5 * 8 + 1,), torch.bfloat16)
    shift = {name: int(name == moved) for name in ("a", "b", "out")}

    def shifted(name, tensor):
        flat = torch.cat((torch.zeros(shift[name], dtype=tensor.dtype), tensor.flatten()))
        return kernels.input(name, flat)[shift[name] :]

    kernels.call(
        "grouped_gemm", shifted("a", a), 1, None, 5, shifted("b", b),
        kernels.input("offsets", offsets_of([5])), out[shift["out"] :], 5, 1, 16, 8, 0,
    )  # fmt: skip
    written = out[shift["out"] :][:40].view(5, 8)
    assert_close(written, a.float() @ b[0].float())


@TRANSPOSED
def test_weights_past_element_two_to_the_31(kernels, transposed):
    """Use the last of 514 experts; only touched pages exist."""
    experts, k, n = 514, 2048, 2048
    shape = (experts, n, k) if transposed else (experts, k, n)
    b = kernels.buffer("b", shape, torch.bfloat16, writable=True, written=False)
    e = experts - 1
    assert e * k * n > 2**31
    kernels.fill(b, e * k * n * 2, k * n * 2)
    b[e] = random(*shape[1:], dtype=torch.bfloat16) / k**0.5
    offsets = torch.zeros(experts + 1, dtype=torch.int64)
    offsets[-1] = 3
    a = random(3, k, dtype=torch.bfloat16)
    out = kernels.output("out", (3, n), torch.bfloat16)
    a_, offsets_ = inputs(kernels, a=a, offsets=offsets)
    kernels.call(
        "grouped_gemm_configured", 0, a_, 1, None, 3, b, offsets_, out, 3, experts, k, n, transposed
    )
    weights = b[e].T if transposed else b[e]
    assert_close(out, a.float() @ weights.float())


@TRANSPOSED
def test_source_rows_past_element_two_to_the_31(kernels, transposed):
    n_source, k = (1 << 20) + 8, 1 << 11
    a = kernels.buffer("a", (n_source, k), torch.bfloat16, writable=True, written=False)
    row = n_source - 2
    assert row * k > 2**31
    kernels.fill(a, row * k * 2, k * 2)
    a[row] = random(k, dtype=torch.bfloat16)
    b = random(1, k, 16, dtype=torch.bfloat16) / k**0.5
    out, _ = run(kernels, a, torch.tensor([row, -1]), b, offsets_of([2]), 2, transposed)
    assert_close(out, torch.stack((a[row].float() @ b[0].float(), torch.zeros(16))))


GOOD = dict(configuration=-1, type=1, a_row=None, n_source_rows=4, b=1, offsets=1, out=1, n_rows=4,
            n_experts=2, k=16, n=16)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(type=2), "type: expected fp32 (0) or bf16 (1), got 2"),
        (dict(n_rows=-1), "n_rows: expected 0 to 2^31 - 1, got -1"),
        (dict(n_rows=2**40), "n_rows: expected 0 to 2^31 - 1, got 1099511627776"),
        (
            dict(n_source_rows=3),
            "n_source_rows: expected at least n_rows=4 without an index, got 3",
        ),
        (dict(n_source_rows=-1), "n_source_rows: expected 0 to 2^31 - 1, got -1"),
        (dict(n_experts=0), "n_experts: expected 1 to 65536, got 0"),
        (dict(k=0), "k: expected 1 to 2^20, got 0"),
        (dict(n=2**20 + 1), "n: expected 1 to 2^20, got 1048577"),
        (dict(configuration=5), "configuration: expected -1 to 4, got 5"),
        (dict(b=None), "b: expected an address, got null"),
        (dict(offsets=None), "offsets: expected an address, got null"),
        (dict(out=None), "out: expected an address, got null"),
        (dict(n_rows=2**31 - 1, n_source_rows=2**31 - 1, n=2**20), "sizes: expected at most 2^31"),
    ],
)
def test_bad_arguments_are_refused_by_name(kernels, change, message):
    v = GOOD | change
    place = kernels.output("place", (1,), torch.float32)
    b, offsets, out = (place if v[name] else None for name in ("b", "offsets", "out"))
    with pytest.raises(ValueError) as error:
        kernels.call(
            "grouped_gemm_configured", v["configuration"], place, v["type"], v["a_row"],
            v["n_source_rows"], b, offsets, out, v["n_rows"], v["n_experts"], v["k"], v["n"], 0,
        )  # fmt: skip
    assert message in str(error.value)


def test_there_are_as_many_configurations_as_are_tested(kernels):
    assert kernels.library.grouped_gemm_configurations() == len(CONFIGURATIONS)


WIDE = {  # matrices, height, width, depth: whether 128 × 256 tiles are used
    (8, 4096, 7168, 2048): True,
    (64, 2048, 2048, 4096): True,
    (8, 4096, 7168, 2040): False,  # a shallow product ends before the wide tiles pay
    (8, 4096, 128, 4096): False,  # half of each tile would be outside
    (8, 4096, 7168 + 128, 2048): False,
    (1, 4096, 4096, 4096): False,  # fewer tiles than four rounds
    (256, 127, 7168, 2048): False,  # no tile would be full
}


@pytest.mark.parametrize(("sizes", "wide"), WIDE.items(), ids=str)
def test_wide_tiles_are_used_only_for_large_products(chooser, sizes, wide):
    assert bool(chooser(*map(ctypes.c_int64, sizes))) == wide


@pytest.fixture(scope="module")
def chooser(build_folder):
    source = build_folder / "chooser.cu"
    source.write_text(
        '#include "tensor_core_tiles.cuh"\n'
        'extern "C" int64_t pays(int64_t n, int64_t height, int64_t width, int64_t depth) {\n'
        "  return wide_tiles_pay(n, height, width, depth);\n}\n"
    )
    return build([source], build_folder, "chooser").library.pays
