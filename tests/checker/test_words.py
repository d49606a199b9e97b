"""CUDA's built-ins mean the same on the CPU as on a GPU."""

import numpy
import pytest
import torch

from mini_moe.checker import CheckerError, CompileError, output, run_cuda

X = torch.tensor([0.0, -0.0, 1.5, -2.5, 1e-40, 3e38, torch.inf, -torch.inf] * 4)


def compute(expression: str, x: torch.Tensor = X, dtype: torch.dtype = torch.float32):
    """Return what every lane of a warp computes for an expression of its x and its lane."""
    names = {torch.float32: "float", torch.int32: "int", torch.int64: "int64_t"}
    source = f"""
__global__ void words(const {names[x.dtype]}* from, {names[dtype]}* to) {{
  int lane = threadIdx.x;
  auto x = from[lane];
  to[lane] = {expression};
  (void)x;
}}
"""
    return run_cuda(source, grid=1, block=32, to=output(32, dtype=dtype), **{"from": x})["to"]


def test_bits_of_floats():
    assert compute("__float_as_int(x)", dtype=torch.int32).equal(X.view(torch.int32))
    unsigned = X.view(torch.int32).long() & 0xFFFFFFFF
    assert compute("__float_as_uint(x)", dtype=torch.int64).equal(unsigned)
    back = "__int_as_float(__float_as_int(x)) + __uint_as_float(0x3f800000u)"
    assert compute(back).equal(X + 1)
    doubles = X.double().view(torch.int64)
    assert compute("__double_as_longlong(double(x))", dtype=torch.int64).equal(doubles)
    assert compute("float(__longlong_as_double(__double_as_longlong(x)))").equal(X)
    halves = "float(__hiloint2double(__double2hiint(x), __double2loint(x)))"
    assert compute(halves).equal(X)


def test_counts_of_bits():
    words = torch.tensor([0, 1, -1, 6, 2**31 - 1, -(2**31), 40, 12345] * 4, dtype=torch.int32)
    bits = [f"{n & 0xFFFFFFFF:032b}" for n in words.tolist()]

    def counted(expression):
        return compute(expression, words, torch.int64).tolist()

    assert counted("__popc(x)") == [b.count("1") for b in bits]
    assert counted("__clz(x)") == [32 - len(b.lstrip("0")) for b in bits]
    assert counted("__ffs(x)") == [b[::-1].find("1") + 1 for b in bits]
    assert counted("int64_t(__brev(x))") == [int(b[::-1], 2) for b in bits]
    assert counted("__popcll(x) - __popc(x)") == [32 * (n < 0) for n in words.tolist()]
    assert counted("__clzll(unsigned(x)) - __clz(x)") == [32] * 32
    assert counted("__umulhi(x, 1u << 31)") == [(n & 0xFFFFFFFF) >> 1 for n in words.tolist()]
    assert counted("__mulhi(x, 1 << 30)") == [n >> 2 for n in words.tolist()]


def test_min_and_max_of_mixed_types():
    assert compute("min(lane, 7u) + max(lane, int64_t(9))", dtype=torch.int64).tolist() == [
        min(lane, 7) + max(lane, 9) for lane in range(32)
    ]
    assert compute("min(x, 2.0)").equal(X.clamp(max=2))
    nan = torch.full((32,), torch.nan)
    assert compute("max(x, 1.0f) + min(1.0f, x)", nan).equal(torch.full((32,), 2.0))


def test_roundings_saturate():
    x = torch.tensor([2.5, -2.5, 3.5, 1e20, -1e20, torch.nan, 0.4, -0.6] * 4)
    top = 2**31 - 1
    assert compute("__float2int_rn(x)", x, torch.int32)[:8].tolist() == [
        2, -2, 4, top, -top - 1, 0, 0, -1
    ]  # fmt: skip
    assert compute("__float2int_rd(x)", x, torch.int32)[:3].tolist() == [2, -3, 3]
    assert compute("__float2uint_rz(x)", x, torch.int64)[:5].tolist() == [2, 0, 3, 2**32 - 1, 0]


def test_atomics_return_what_was_there():
    source = """
__global__ void count(int* total, unsigned* turns, int* bits, int* before) {
  before[threadIdx.x] = atomicAdd(total, 2);
  atomicInc(turns, 9);
  atomicXor(bits, 1 << threadIdx.x);
}
"""
    zero = torch.zeros(1, dtype=torch.int32)
    with pytest.raises(ValueError, match="turns: expected a tensor for unsigned"):
        run_cuda(source, grid=1, block=32, total=zero, turns=zero, bits=zero, before=output(32))
    arguments = {"total": zero, "turns": zero, "bits": zero}
    arguments["before"] = output(32, dtype=torch.int32)
    ran = run_cuda(source.replace("unsigned*", "int*"), grid=1, block=32, **arguments)
    assert ran["before"].tolist() == list(range(0, 64, 2))
    assert (ran["total"].item(), ran["turns"].item(), ran["bits"].item()) == (64, 2, -1)


def test_lanes_compare_bits_and_order_signs():
    x = torch.tensor([0.25, 0.75] * 16)
    assert compute("int64_t(__match_any_sync(0xffffffff, x))", x, torch.int64)[:2].tolist() == [
        0x55555555, 0xAAAAAAAA
    ]  # fmt: skip
    signed = torch.arange(-16, 16, dtype=torch.int32)
    assert compute("__reduce_max_sync(0xffffffff, x)", signed, torch.int32).eq(15).all()
    assert compute("__reduce_min_sync(0xffffffff, x)", signed, torch.int32).eq(-16).all()
    assert compute("__reduce_add_sync(0xffffffff, x)", signed, torch.int32).eq(-16).all()


def test_shuffles_beyond_the_warp_return_the_lanes_own_value():
    lanes = torch.arange(32.0)
    assert compute("__shfl_down_sync(0xffffffff, x, 40)", lanes).equal(lanes)
    assert compute("__shfl_up_sync(0xffffffff, x, -3)", lanes).equal(lanes)
    assert compute("__shfl_sync(0xffffffff, x, -1)", lanes).equal(torch.full((32,), 31.0))
    halves = torch.cat((lanes[1:16], lanes[15:16], lanes[17:], lanes[31:]))
    assert compute("__shfl_down_sync(0xffffffff, x, 1, 16)", lanes).equal(halves)


TURN = """
__global__ void turn(const float* x, float* y) {
  extern __shared__ float tile[];
  tile[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  y[threadIdx.x] = tile[blockDim.x - 1 - threadIdx.x];
}
"""
DECLARED = "extern __shared__ float tile[];"


def turn(source=TURN, shared=128):
    x = torch.arange(32.0)
    return run_cuda(source, grid=1, block=32, shared=shared, x=x, y=output(32))


@pytest.mark.parametrize(
    "source",
    [
        TURN,
        f"{DECLARED}\n" + TURN.replace(DECLARED, ""),
        TURN.replace(DECLARED, "extern  __shared__ /* n */ __align__(16) float tile [ ] ;"),
        TURN.replace(DECLARED, "extern __shared__ char all[]; float* tile = (float*)all;"),
        TURN.replace("void turn", "void other", 1).replace("void other", "void turn") + "// extern",
    ],
)
def test_shared_memory_whose_size_the_launch_gives(source):
    ran = turn(source)
    assert ran["y"].equal(torch.arange(31.0, -1, -1))
    assert ran.moved("dynamic shared memory", "read").bytes == 128


@pytest.mark.parametrize(
    ("shared", "words"),
    [
        (124, "line 3: thread 31 writes 4 bytes, right behind the end of `dynamic shared memory`"),
        (0, "line 3: thread 0 writes 4 bytes, in `dynamic shared memory`, of which there are 0"),
    ],
)
def test_a_launch_with_too_little_shared_memory_is_reported(shared, words):
    with pytest.raises(CheckerError) as error:
        turn(shared=shared)
    assert words in error.value.reports[0].sentence()


def test_a_table_of_constants_can_be_read():
    table = "__constant__ float weights[4] = {1, 2, 3, 4};"
    source = f"{table}\n" + TURN.replace("= tile[", "= weights[threadIdx.x % 4] + 0 * tile[")
    assert turn(source)["y"].tolist() == [1, 2, 3, 4] * 8


def test_an_array_in_a_comment_is_left_alone():
    with pytest.raises(CompileError, match="'tile' was not declared"):
        turn(TURN.replace(DECLARED, f"// {DECLARED}"))


def test_arrays_of_a_known_size_may_have_48_kilobytes():
    source = TURN.replace("extern __shared__ float tile[]", "__shared__ float tile[12289]")
    with pytest.raises(CompileError, match="arrays of turn take 49,156 bytes; at most 49,152"):
        turn(source)
    assert turn(source.replace("12289", "12288"))["y"][0] == 31


@pytest.mark.parametrize("shared", [-1, 1.5, True, 2**40, "128"])
@pytest.mark.any_types
def test_shared_bytes_are_a_number(shared):
    with pytest.raises(ValueError, match="shared: expected a number of bytes"):
        turn(shared=shared)


@pytest.mark.any_types
def test_sizes_of_numpy_are_numbers():
    assert turn(shared=numpy.int64(128))["y"][0] == 31
