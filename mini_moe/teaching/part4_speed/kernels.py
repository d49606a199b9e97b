"""Exercises of 12_kernels about memory: sectors, coalescing, banks, a swizzle."""

import torch

from mini_moe.checker import CheckerError, CompileError, Report, Run, output, run_cuda
from mini_moe.teaching.exercise import Mistake, kernel_exercise, value_exercise


def run_student(source: str, **launch: object) -> Run:
    """Run a student's kernel under the checker.

    Raises: Mistake in plain words, with the student's lines, where it is refused.
    """
    try:
        return run_cuda(source, **launch)
    except CompileError as error:
        raise Mistake(f"your kernel does not compile:\n{error}") from None
    except CheckerError as error:
        raise Mistake(told(error.reports[0], source)) from None
    except ValueError as error:
        raise Mistake(str(error)) from None


def told(report: Report, source: str) -> str:
    """What the checker saw, then the lines of source that it speaks of."""
    text, lines = report.sentence(), source.splitlines()
    numbers = {int(part.split()[0].strip(",;:")) for part in text.split("line ")[1:]}
    quoted = [f"\n    {n}: {lines[n - 1].strip()}" for n in sorted(numbers) if n <= len(lines)]
    return text + "".join(quoted)


moved_bytes = value_exercise(
    "moved_bytes",
    1024,
    explanation="32 lanes · 1 sector each · 32 bytes = 1,024 bytes move, and 32 · 2 = 64 of them "
    "are used: one sixteenth.",
    difficulty=2,
    importance=5,
    minutes=4,
    hints=(
        "Rows are 128 bytes apart. In which sector does each lane's number lie?",
        "32 lanes, 32 different sectors; a sector moves whole: 32 bytes.",
    ),
)


@moved_bytes.probe()
def _(value):
    wrong = {
        64: "64 bytes are what the lanes asked for; memory moves whole sectors",
        32: "32 is the number of sectors; each of them has 32 bytes",
        128: "one line of 128 bytes would do if the lanes' numbers were neighbours; they are not",
        4096: "memory moves sectors of 32 bytes here, not whole lines of 128",
    }
    if value in wrong:
        raise Mistake(wrong[value])


def shape_arguments(rows: int, columns: int) -> dict:
    """A launch of the exercise `side_by_side`: more threads than numbers."""
    x = torch.arange(float(rows * columns)).view(rows, columns)
    blocks = -(-rows * columns // 128)
    sizes = {"rows": rows, "columns": columns, "factor": 2.0}
    return {"grid": blocks, "block": 128, "x": x, "y": output(rows, columns), **sizes}


SIDE_BY_SIDE = """
// y = factor * x; x and y are [rows, columns], one thread a number.
__global__ void scale(const float* x, float* y, int rows, int columns, float factor) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= rows * columns) return;
  int row = i % rows, column = i / rows;
  y[row * columns + column] = factor * x[row * columns + column];
}
"""

side_by_side = kernel_exercise(
    "side_by_side",
    SIDE_BY_SIDE.replace("i % rows, column = i / rows", "i / columns, column = i % columns"),
    SIDE_BY_SIDE,
    difficulty=2,
    importance=5,
    minutes=5,
    hints=(
        "Lanes 0 and 1 have i = 0 and 1. Which row and column do they get now?",
        "Neighbours in i should be neighbours in a row: divide by another number.",
    ),
)


@side_by_side.probe("a matrix of 32 × 64")
def _(student):
    ran = run_student(student, **shape_arguments(32, 64))
    off = int((ran["y"] != 2 * torch.arange(2048.0).view(32, 64)).sum())
    if off:
        raise Mistake(f"{off} of 2,048 numbers of y are wrong; the result must stay the same")
    for name, access in (("x", "read"), ("y", "write")):
        moved = ran.moved(name, access)
        if moved.sectors > moved.best_sectors:
            raise Mistake(
                f"each {access} of {name} by a warp moves {moved.sectors // moved.executions} "
                f"sectors where {moved.best_sectors // moved.executions} would do"
            )


@side_by_side.probe("a matrix of 5 × 7")
def _(student):
    ran = run_student(student, **shape_arguments(5, 7))
    if not ran["y"].equal(2 * torch.arange(35.0).view(5, 7)):
        raise Mistake("y is wrong where the sizes are no multiples of 32")


TRANSPOSE = """
// y = x transposed; both are [32, 32]. A block of 32 x 8 threads.
__global__ void transpose(const float* x, float* y) {
  __shared__ float tile[32][32];
  int lane = threadIdx.x;
  for (int row = threadIdx.y; row < 32; row += 8) tile[row][lane] = x[row * 32 + lane];
  __syncthreads();
  for (int row = threadIdx.y; row < 32; row += 8) y[row * 32 + lane] = tile[lane][row];
}
"""

transpose_tile = kernel_exercise(
    "transpose_tile",
    TRANSPOSE.replace("tile[32][32]", "tile[32][33]"),
    TRANSPOSE,
    difficulty=2,
    importance=4,
    minutes=5,
    hints=(
        "A number's bank is (its place in the array) % 32. Which banks does a column touch?",
        "Rows that are one number longer start one bank further on.",
    ),
)


def judge_transpose(source: str) -> None:
    """The result, then global memory, then shared memory.

    Raises: Mistake with the first that is not as it should be.
    """
    x = torch.arange(1024.0).view(32, 32)
    ran = run_student(source, kernel="transpose", grid=1, block=(32, 8), x=x, y=output(32, 32))
    if not ran["y"].equal(x.T):
        raise Mistake("y is not x transposed")
    for name in ("x", "y"):
        moved = ran.moved(name)
        if moved.sectors > moved.best_sectors:
            raise Mistake(
                f"{name} moves {moved.sectors} sectors where {moved.best_sectors} would do: read "
                "and write rows in global memory, turn over in shared memory"
            )
    for access in ("write", "read"):
        shared = [t for t in ran.traffic if t.space == "shared" and t.access == access]
        waves, best = sum(t.wavefronts for t in shared), sum(t.best_wavefronts for t in shared)
        if waves > best:
            raise Mistake(
                f"{access}s of the tile take {waves} wavefronts, {best} would do: {waves // best} "
                "lanes meet in one bank"
            )


@transpose_tile.probe()
def _(student):
    judge_transpose(student)


SWIZZLED = """
// In which column of the tile the number (row, column) is kept.
__device__ int swizzled(int row, int column) {
  return column;
}
"""
SWIZZLE_USER = """
__global__ void transpose(const float* x, float* y) {
  __shared__ float tile[32][32];
  int lane = threadIdx.x;
  for (int row = threadIdx.y; row < 32; row += 8)
    tile[row][swizzled(row, lane)] = x[row * 32 + lane];
  __syncthreads();
  for (int row = threadIdx.y; row < 32; row += 8)
    y[row * 32 + lane] = tile[lane][swizzled(lane, row)];
}
"""

swizzled = kernel_exercise(
    "swizzled",
    SWIZZLED.replace("return column", "return column ^ row"),
    SWIZZLED,
    where="Steps 3 and 4 of `kernels/ladder/` pad their tiles by 16 bytes a row; step 5 and "
    "`kernels/tensor_core_tiles.cuh` swizzle, 16 bytes at a time.",
    difficulty=4,
    importance=3,
    minutes=8,
    hints=(
        "Each row may shuffle its 32 columns as it likes, but no two numbers may share a place.",
        "32 rows have to put the same column into 32 different places.",
        "Exclusive or with the row: for a fixed column, 32 rows give 32 results.",
    ),
)


@swizzled.probe()
def _(student):
    judge_transpose(student + SWIZZLE_USER)
