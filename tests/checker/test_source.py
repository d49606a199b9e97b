"""A kernel given as text runs, is watched, and errors refer to its own lines."""

import pytest
import torch

from mini_moe.checker import CheckerError, CompileError, output, run_cuda

SCALE = """
__global__ void scale(const float* x, float* y, int n, float factor) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] = factor * x[i];
}
"""


def scale(source=SCALE, **changes):
    arguments = {"x": torch.arange(100.0), "y": output(100), "n": 100, "factor": 2.0} | changes
    return run_cuda(source, grid=2, block=64, **arguments)


def refused(source):
    with pytest.raises(CheckerError) as error:
        scale(source)
    return error.value.reports[0]


def test_outputs_come_back_and_traffic_is_counted():
    ran = scale()
    assert ran["y"].equal(2 * torch.arange(100.0))
    moved = ran.moved("x", "read")
    assert (moved.place, moved.bytes, moved.sectors) == ("scale.cu:3", 400, 13)


def test_order_of_arguments_is_free_and_inputs_stay_as_they_are():
    x = torch.ones(100)
    ran = run_cuda(SCALE, grid=2, block=64, factor=3, n=100, y=torch.zeros(100), x=x)
    assert ran["y"].equal(torch.full((100,), 3.0)) and x.equal(torch.ones(100))
    assert set(ran.outputs) == {"y"}


@pytest.mark.parametrize(("block", "warp", "first"), [(0, 0, 0), (0, 1, 32), (1, 1, 96)])
def test_the_watched_warp_is_traced(block, warp, first):
    arguments = {"x": torch.zeros(128), "y": output(128), "n": 128, "factor": 1.0}
    ran = run_cuda(SCALE, grid=2, block=64, watch=(block, warp), **arguments)
    reads = [(a.lane, a.offset) for a in ran.trace if a.buffer == "x"]
    assert reads == [(lane, 4 * (first + lane)) for lane in range(32)]


def test_several_kernels_need_a_name():
    two = SCALE + SCALE.replace("scale", "other")
    with pytest.raises(CompileError, match="expects one of scale, other"):
        scale(two)
    assert scale(two, kernel="other").kernel == "other"


def test_a_report_names_the_line_of_the_text():
    report = refused(SCALE.replace("if (i < n) ", ""))
    assert report.place == "scale.cu:3"
    assert report.sentence().startswith("out of bounds in line 3: thread 36 of block 1 reads 4")


def test_a_race_is_reported_in_plain_words():
    source = SCALE.replace("if (i < n) y[i]", "y[0]")
    assert refused(source).sentence().startswith("race in line 3: thread 1 writes `y`[0]; thread 0")
    assert refused(source).sentence().endswith("wrote it at line 3, no barrier between")


@pytest.mark.parametrize(
    "loop",
    [
        "while (n > 0) y[i] = 1;",
        "for (;;) y[i] = x[i];",
        "for (int k = 16; k >= 0; k /= 2) factor += k;",
        "while (i < n) {}",
        "while (true) {}",
        "for (;;) /* it comes */ ;",
    ],
)
def test_an_endless_loop_is_stopped_and_named(loop):
    report = refused(SCALE.replace("if (i < n)", f"{loop}\n  if (i < n)"))
    assert (report.kind, report.place) == ("endless", "scale.cu:3")


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("x[i];", "x[i]", "line 3: expected ';' before '}' token\n      if (i < n)"),
        ("int i", "int j", "line 3: 'i' was not declared in this scope"),
        ("int i = blockIdx.x * blockDim.x + threadIdx.x", "int i", "'i' is used uninitialized"),
        ("__global__", "", "no `__global__ void name"),
        ("const float* x", "const Matrix* x", "line 1: 'Matrix' does not name a type"),
    ],
)
def test_compiler_errors_use_the_lines_of_the_text(before, after, words):
    with pytest.raises(CompileError) as error:
        scale(SCALE.replace(before, after))
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"x": torch.arange(100)}, "x: expected a tensor for const float*, got a tensor of torch"),
        ({"x": 3}, "x: expected a tensor for const float*, got 3"),
        ({"n": 1.5}, "n: expected a whole number for int, got 1.5"),
        ({"n": torch.zeros(1)}, "n: expected a number for int"),
        ({"m": 1}, "the parameters are x, y, n, factor; got x, y, n, factor, m"),
    ],
)
def test_arguments_that_do_not_fit_are_named(changes, words):
    with pytest.raises(ValueError) as error:
        scale(**changes)
    assert words in str(error.value)


def test_lines_are_the_texts_own_after_its_includes():
    source = SCALE.replace(
        "y[i] = factor * x[i];", "{ float v[4]; load_vector(x + 4 * i, v); y[i] = v[0]; }"
    )
    assert refused(source).sentence().startswith("out of bounds in line 3: thread 25 reads 16 b")


def test_an_endless_loop_around_a_shuffle_is_the_kernels():
    loop = "for (;;)\n    factor += __shfl_xor_sync(0xffffffff, factor, 1);"
    report = refused(SCALE.replace("if (i < n)", f"{loop}\n  if (i < n)"))
    assert report.kind == "endless" and report.place in ("scale.cu:3", "scale.cu:4")


def test_an_impossible_launch_is_refused():
    with pytest.raises(ValueError, match="1 to 1024 threads"):
        run_cuda(SCALE, grid=1, block=2000, x=torch.zeros(1), y=output(1), n=1, factor=1.0)


def test_an_untouched_buffer_is_named():
    with pytest.raises(ValueError, match="z: no access; scale touched x, y"):
        scale().moved("z")
