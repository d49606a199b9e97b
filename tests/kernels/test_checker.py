"""The checker finds planted errors, names their lines, and is silent about clean kernels."""

import re
from pathlib import Path

import pytest
import torch

from mini_moe.checker import CheckerError

PLANTED = Path(__file__).parent / "planted"
WRONG = [  # the kind of report, the kernel, its third argument
    ("out of bounds", "past_the_end", 64),
    ("out of bounds", "before_the_begin", 64),
    ("out of bounds", "wide_tail", 62),
    ("out of bounds", "shared_overrun", 64),
    ("out of bounds", "dynamic_overrun", 64),
    ("out of bounds", "register_overrun", 62),
    ("out of bounds", "null_pointer", 64),
    ("out of bounds", "matrices_of_global_memory", 64),
    ("out of bounds", "copy_into_a_variable", 64),
    ("out of bounds", "copy_from_shared_memory", 64),
    ("out of bounds", "calls_nothing", 64),
    ("out of bounds", "past_its_own_array", 16),
    ("unwritten", "unwritten_output", 64),
    ("unwritten", "unwritten_shared", 6),
    ("unwritten", "left_by_another_block", 64),
    ("unwritten", "not_waited_for", 128),
    ("divergence", "early_return", 40),
    ("divergence", "two_barriers", 64),
    ("divergence", "barrier_in_a_loop", 72),
    ("divergence", "shuffle_in_a_branch", 20),
    ("divergence", "mask_without_me", 32),
    ("divergence", "matrices_without_a_lane", 31),
    ("divergence", "product_without_a_lane", 31),
    ("divergence", "product_of_half_a_warp", 32),
    ("divergence", "reads_a_returned_lane", 20),
    ("divergence", "reads_a_lane_outside", 32),
    ("divergence", "width_of_three", 32),
    ("race", "missing_barrier", 64),
    ("race", "missing_second_barrier", 128),
    ("race", "missing_syncwarp", 32),
    ("race", "syncwarp_is_no_barrier", 64),
    ("race", "count_without_atomics", 64),
    ("race", "two_blocks_one_place", 64),
    ("race", "reads_another_block", 128),
    ("race", "atomic_and_plain", 64),
    ("race", "overtakes_a_copy", 128),
    ("misaligned", "misaligned_vector", 64),
    ("overflow", "int_overflow", 64),
    ("overflow", "shift_too_far", 64),
    ("division by zero", "divides_by_zero", 64),
    ("division by zero", "remainder_of_zero", 64),
    ("read-only", "writes_an_input", 8),
    ("stack overflow", "calls_itself", 64),
    ("stack overflow", "large_variables", 64),
    ("stopped", "gives_up", 64),
    ("stopped", "traps", 64),
    ("assertion", "asserts", 32),
]


def marked_lines(kernel: str) -> tuple[set[str], set[str]]:
    """Return the places marked HERE in a planted kernel, and those marked AND HERE."""
    for path in PLANTED.glob("*.cu"):
        lines = path.read_text().splitlines()
        if f"__global__ void {kernel}_kernel" in path.read_text():
            begin = next(i for i, line in enumerate(lines) if f"void {kernel}_kernel" in line)
            end = next(i for i in range(begin, len(lines)) if lines[i] == "}")
            body = [(f"{path.name}:{i + 1}", lines[i]) for i in range(begin, end)]
            here = {place for place, line in body if re.search(r"// HERE", line)}
            return here, {place for place, line in body if "// AND HERE" in line}
    raise LookupError(kernel)


def test_a_pair_of_lines_is_reported_once(planted):
    assert len(run_planted(planted, "missing_barrier", 64)) == 1


def run_planted(planted, kernel, number):
    planted.release()
    x = planted.input("x", torch.rand(number))
    y = planted.output("y", (max(number, 64),), torch.float32)
    with pytest.raises(CheckerError) as error:
        planted.call(kernel, x, y, number)
    return error.value.reports


@pytest.mark.parametrize(("kind", "kernel", "number"), WRONG, ids=[row[1] for row in WRONG])
def test_planted_error_is_found_on_its_line(planted, kind, kernel, number):
    here, and_here = marked_lines(kernel)
    reports = run_planted(planted, kernel, number)
    assert {report.kind for report in reports} == {kind}, reports
    for report in reports:
        assert report.place in here | and_here, report
        assert all(place in str(report) for place in here | and_here), report


@pytest.mark.parametrize(("kind", "kernel", "number"), WRONG, ids=[row[1] for row in WRONG])
def test_report_is_the_same_every_time(planted, kind, kernel, number):
    assert run_planted(planted, kernel, number) == run_planted(planted, kernel, number)


@pytest.mark.parametrize("order", ["forward", "reversed"])
class TestCleanKernelsReportNothing:
    @pytest.fixture(autouse=True)
    def library(self, planted, order):
        self.kernels = planted
        if order == "forward":
            yield
        else:
            with planted.reversed_order():
                yield

    @pytest.mark.parametrize("n", [1, 127, 128, 300])
    def test_barriers(self, n):
        x = torch.rand(n)
        y = self.kernels.output("y", (-(-n // 128),), torch.float32)
        self.kernels.call("block_sum", self.kernels.input("x", x), y, n)
        torch.testing.assert_close(y.sum(), x.sum())

    def test_syncwarp(self):
        x = torch.rand(100)
        y = self.kernels.output("y", (100,), torch.float32)
        self.kernels.call("turn_twice", self.kernels.input("x", x), y, 100)
        assert y[:96].equal(x[:96])

    def test_half_warps(self):
        x = torch.arange(32.0)
        y = self.kernels.output("y", (32,), torch.float32)
        self.kernels.call("half_warps", self.kernels.input("x", x), y, 32)
        assert y.equal(torch.cat((x[:16].roll(-1), x[16:].roll(-2))).flip(0))

    def test_atomics(self):
        values = torch.randint(0, 16, (500,))
        counts = self.kernels.output("counts", (16,), torch.int32)
        self.kernels.call("histogram", self.kernels.input("values", values), counts, 500)
        assert counts.equal(values.bincount(minlength=16).int())

    @pytest.mark.parametrize("n", [1, 20, 32])
    def test_votes_and_shuffles(self, n):
        values = torch.randint(0, 5, (n,))
        y = self.kernels.output("y", (5, 32), torch.int64)
        self.kernels.call("lanes", self.kernels.input("values", values), y, n)
        same, ballot, maximum, up, decided = y[:, :n]
        assert same.equal(values.bincount(minlength=5)[values])
        assert ballot.eq(sum(1 << i for i in range(n) if values[i] > 2)).all()
        assert maximum.eq(values.max()).all()
        assert up.equal(torch.cat((values[:1], values[:-1])))
        assert decided.eq(int((values == 3).any()) + 2).all()

    def test_two_stages(self):
        x = torch.rand(5, 128)
        y = self.kernels.output("y", (5, 128), torch.float32)
        self.kernels.call("two_stages", self.kernels.input("x", x), y, 5)
        assert y.equal(x.flip(1))

    def test_tensor_cores(self):
        a, b = torch.randn(16, 16).bfloat16(), torch.randn(16, 8).bfloat16()
        d = self.kernels.output("d", (16, 8), torch.float32)
        inputs = (self.kernels.input("a", a), self.kernels.input("b", b))
        self.kernels.call("multiply", *inputs, d)
        torch.testing.assert_close(d, a.float() @ b.float())


def test_16_bit_floats_are_rounded_as_torch_rounds_them(planted):
    bits = torch.randint(-(2**31), 2**31, (4000,))
    bits[:2000] = bits[:2000] & ~0x7FFF | torch.randint(0, 2, (2000,)) << 15  # many ties
    special = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan, 3.4e38, 1e-40, 65519.0])
    x = torch.cat((bits.to(torch.int32).view(torch.float32), special))
    y, z, back = (
        planted.output(name, x.shape, dtype)
        for name, dtype in (("y", torch.bfloat16), ("z", torch.float16), ("back", torch.float32))
    )
    planted.call("round_all", planted.input("x", x), y, z, back, len(x))
    torch.testing.assert_close(y, x.bfloat16(), rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(z, x.half(), rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(back, y.float() + z.float(), rtol=0, atol=0, equal_nan=True)


class TestTrafficIsCounted:
    def column(self, planted, pitch):
        x = torch.rand(32, 32)
        y = planted.output("y", (32, 32), torch.float32)
        traffic = planted.recorded("transpose", planted.input("x", x), y, pitch)
        assert y.equal(x.T)
        (column,) = (t for t in traffic if t.space == "shared" and t.access == "read")
        return column

    def test_column_of_32_floats_is_one_bank(self, planted):
        column = self.column(planted, 32)
        assert (column.executions, column.wavefronts, column.best_wavefronts) == (32, 1024, 32)

    def test_padding_removes_the_conflict(self, planted):
        column = self.column(planted, 33)
        assert (column.executions, column.wavefronts, column.best_wavefronts) == (32, 32, 32)

    @pytest.mark.parametrize(
        ("stride", "sectors", "lines"), [(1, 4, 1), (2, 8, 2), (8, 32, 8), (0, 1, 1)]
    )
    def test_stride_costs_sectors(self, planted, stride, sectors, lines):
        x = planted.input("x", torch.rand(32 * 8))
        y = planted.output("y", (32,), torch.float32)
        read = next(t for t in planted.recorded("strided", x, y, stride) if t.access == "read")
        assert (read.sectors, read.lines, read.bytes) == (sectors, lines, 128)

    def test_vector_is_one_access_of_16_bytes(self, planted):
        x = planted.input("x", torch.rand(128))
        y = planted.output("y", (128,), torch.float32)
        traffic = planted.recorded("vectors", x, y, 0)
        assert [(t.buffer, t.executions, t.bytes, t.sectors) for t in traffic] == [
            ("x", 1, 512, 16),
            ("y", 1, 512, 16),
        ]
        assert {a.bytes for a in planted.trace()} == {16}

    def test_trace_has_the_address_of_every_lane(self, planted):
        x = planted.input("x", torch.rand(256))
        planted.recorded("strided", x, planted.output("y", (32,), torch.float32), 8)
        reads = [a for a in planted.trace() if a.buffer == "x"]
        assert [(a.lane, a.offset) for a in reads] == [(lane, 32 * lane) for lane in range(32)]


def test_unwritten_elements_of_an_output_are_counted(planted):
    y = planted.output("y", (40,), torch.float32)
    planted.call(
        "vectors", planted.input("x", torch.rand(128)), planted.output("z", (128,), y.dtype), 0
    )
    assert planted.unwritten(y) == 40
    planted.call("strided", planted.input("x", torch.rand(128)), y, 1)
    assert planted.unwritten(y) == 8


def test_invalid_launch_is_refused(planted):
    y = planted.output("y", (64,), torch.float32)
    with pytest.raises(ValueError, match="grid: x up to"):
        planted.call("block_sum", planted.input("x", torch.rand(0)), y, 0)
