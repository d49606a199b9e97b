"""Exercises of 12_kernels about threads: barriers, shuffles, the combine, tensor cores."""

import torch

from mini_moe.checker import output
from mini_moe.teaching.compare import must_match
from mini_moe.teaching.exercise import Mistake, kernel_exercise, value_exercise
from mini_moe.teaching.part4_speed.kernels import run_student

DIFFERENCES = """
// y[i] = x[i] - x[i - 1] inside each tile of 128 numbers; one block of 128 threads.
__global__ void differences(const float* x, float* y, int n_tiles) {
  __shared__ float tile[128];
  int me = threadIdx.x, before = me > 0 ? me - 1 : 0;
  for (int t = 0; t < n_tiles; ++t) {
    tile[me] = x[t * 128 + me];
    y[t * 128 + me] = tile[me] - tile[before];
  }
}
"""

differences = kernel_exercise(
    "differences",
    DIFFERENCES.replace("+ me];\n    y", "+ me];\n    __syncthreads();\n    y").replace(
        "tile[before];\n", "tile[before];\n    __syncthreads();\n"
    ),
    DIFFERENCES,
    where="The same two barriers stand in `kernels/ladder/grouped_gemm_2_tiles.cu`.",
    difficulty=2,
    importance=5,
    minutes=6,
    hints=(
        "The report names two lines and two threads: everyone must have passed the first of the "
        "lines before anyone reaches the second.",
        "`__syncthreads();` waits for all threads of the block.",
        "One barrier is not enough: who is fast already stores the next tile.",
    ),
)


def judge_differences(source: str, n_tiles: int) -> None:
    """The checker's verdict, the result, and whether the tile is still used.

    Raises: Mistake.
    """
    x = torch.arange(128.0 * n_tiles) ** 2
    ran = run_student(source, grid=1, block=128, x=x, y=output(len(x)), n_tiles=n_tiles)
    tiles = x.view(n_tiles, 128)
    wanted = torch.cat((tiles[:, :1] * 0, tiles[:, 1:] - tiles[:, :-1]), dim=1).flatten()
    must_match(ran["y"], wanted, "your y")
    if not any(t.space == "shared" and t.access == "read" for t in ran.traffic):
        raise Mistake("your kernel no longer reads the tile; keep it, and make it safe")


@differences.probe("one tile")
def _(student):
    judge_differences(student, 1)


@differences.probe("one tile is right, but of three")
def _(student):
    judge_differences(student, 3)


BEST_EXPERT = """
// Lane l brings the score of expert l. Every lane gets the number of the best expert; of equal
// scores the lower number wins.
__device__ int best_expert(float score, int lane) {
  int id = lane;
  for (int bits = 16; bits > 0; bits /= 2) {
    // ask lane ^ bits for its score and its id; take them if they are better
  }
  return id;
}
"""
BEST_EXPERT_ANSWER = """
__device__ int best_expert(float score, int lane) {
  int id = lane;
  for (int bits = 16; bits > 0; bits /= 2) {
    float other = __shfl_xor_sync(0xffffffff, score, bits);
    int other_id = __shfl_xor_sync(0xffffffff, id, bits);
    if (other > score || (other == score && other_id < id)) {
      score = other;
      id = other_id;
    }
  }
  return id;
}
"""
TOP_K_USER = """
__global__ void top_k(const float* scores,  // [tokens, 32]
                      int* expert_ids,      // [tokens, k, 32]: what every lane found
                      int n_tokens, int k) {
  int lane = threadIdx.x % 32, token = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
  if (token >= n_tokens) return;  // the whole warp
  float score = scores[token * 32 + lane];
  for (int round = 0; round < k; ++round) {
    int id = best_expert(score, lane);
    expert_ids[(token * k + round) * 32 + lane] = id;
    if (lane == id) score = -INFINITY;
  }
}
"""

best_expert = kernel_exercise(
    "best_expert",
    BEST_EXPERT_ANSWER,
    BEST_EXPERT,
    where="The package's own is `largest_id` in `kernels/topk_gate.cu`: one instruction for the "
    "maximum of a warp, one for the lowest id that has it.",
    difficulty=4,
    importance=5,
    minutes=12,
    hints=(
        "`__shfl_xor_sync(0xffffffff, value, bits)` gives the `value` of lane ^ bits.",
        "All lanes must shuffle, so shuffle first and compare afterwards; both score and id.",
        "Better is: a larger score, or an equal score and a lower id.",
    ),
)


def top_k_by(source: str, scores: torch.Tensor, k: int) -> torch.Tensor:
    """Which experts every lane found, [tokens, k, 32]."""
    launch = {"grid": -(-len(scores) // 4), "block": 128, "kernel": "top_k"}
    ids = output(len(scores), k, 32, dtype=torch.int32)
    arguments = {"scores": scores, "expert_ids": ids, "n_tokens": len(scores), "k": k}
    return run_student(source + TOP_K_USER, **launch, **arguments)["expert_ids"].long()


@best_expert.probe("32 scores, one of them the best")
def _(student):
    scores = torch.arange(32.0).roll(12)[None]
    found = top_k_by(student, scores, 1)[0, 0]
    if not found.eq(11).all():
        lane = int((found != 11).nonzero()[0])
        raise Mistake(f"expert 11 has the largest score; lane {lane} says {int(found[lane])}")


@best_expert.probe("32 equal scores")
def _(student):
    found = top_k_by(student, torch.full((1, 32), -0.5), 1)[0, 0]
    if not found.eq(found[0]).all():
        lane = int((found != found[0]).nonzero()[0])
        raise Mistake(f"lane 0 says expert {int(found[0])}, lane {lane} says {int(found[lane])}")
    if found[0] != 0:
        raise Mistake(f"all lanes say expert {int(found[0])}; the lower number wins: 0")


@best_expert.probe("six tokens, their four best experts")
def _(student):
    scores = torch.randn(6, 32, generator=torch.Generator().manual_seed(0)).round(decimals=1)
    wanted = scores.sort(dim=-1, descending=True, stable=True).indices[:, :4, None]
    must_match(top_k_by(student, scores, 4), wanted.expand(6, 4, 32), "what the lanes say")


COMBINE = """
// out[t] = the sum over k of gates[t, k] * y[place[t, k]]; a block a token.
__global__ void combine(const float* y,        // [rows, d_model]
                        const int64_t* place,  // [tokens, top_k]
                        const float* gates,    // [tokens, top_k]
                        float* out,            // [tokens, d_model]
                        int d_model, int top_k) {
  int token = blockIdx.x;
  for (int d = threadIdx.x; d < d_model; d += blockDim.x) {
    // about four lines
  }
}
"""
COMBINE_BODY = """    float sum = 0;
    for (int k = 0; k < top_k; ++k) {
      int i = token * top_k + k;
      sum += gates[i] * y[place[i] * d_model + d];
    }
    out[token * d_model + d] = sum;
"""

combine = kernel_exercise(
    "combine",
    COMBINE.replace("    // about four lines\n", COMBINE_BODY),
    COMBINE,
    where="The package's own is `combine_kernel` in `kernels/combine.cu`: 16 bytes a lane, several "
    "tokens a block, bf16 too.",
    difficulty=3,
    importance=5,
    minutes=10,
    hints=(
        "A thread owns column d of one token: it can add up in a register, nobody else writes it.",
        "Row k of the token is place[token * top_k + k]; its column d is y[row * d_model + d].",
        "Write out[token * d_model + d] once, behind the loop over k.",
    ),
)


def combine_case(n_tokens: int = 5, top_k: int = 3, d_model: int = 72) -> dict:
    """A launch of `combine`: rows in a scrambled order, two more than are used."""
    generator = torch.Generator().manual_seed(0)
    rows = n_tokens * top_k + 2
    place = torch.randperm(rows, generator=generator)[: rows - 2].view(n_tokens, top_k)
    return {
        "grid": n_tokens,
        "block": 32,
        "y": torch.randn(rows, d_model, generator=generator),
        "place": place,
        "gates": torch.rand(n_tokens, top_k, generator=generator),
        "out": output(n_tokens, d_model),
        "d_model": d_model,
        "top_k": top_k,
    }


@combine.probe("five tokens, three rows each, 72 wide")
def _(student):
    case = combine_case()
    ran = run_student(student, **case)
    if any(t.access == "atomic" for t in ran.traffic):
        raise Mistake(
            "atomic additions come in another order every time, and so do the last bits of the "
            "sum; let one thread own each number of out"
        )
    wanted = torch.einsum("tk,tkd->td", case["gates"], case["y"][case["place"]])
    unwritten = int(ran["out"].isnan().sum())
    if unwritten:
        raise Mistake(f"{unwritten} of {wanted.numel()} numbers of out were never written")
    must_match(ran["out"], wanted, "your out")


@combine.probe("128 columns, 32 threads")
def _(student):
    moved = run_student(student, **combine_case(d_model=128)).moved("y", "read")
    if moved.sectors > moved.best_sectors:
        raise Mistake(
            f"y moves {moved.sectors} sectors where {moved.best_sectors} would do: neighbouring "
            "lanes should read neighbouring columns"
        )


lane_of_c = value_exercise(
    "lane_of_c",
    6,
    explanation="Row 9 is row 1 of the lower half: lanes 4 to 7. Column 5 is in the third pair of "
    "columns: lane 4 · 1 + 2 = 6, register c[3].",
    difficulty=3,
    importance=2,
    minutes=4,
    hints=(
        "Rows 8 to 15 lie in the same lanes as rows 0 to 7, in other registers.",
        "lane = 4 · (row % 8) + column // 2.",
    ),
)


@lane_of_c.probe()
def _(value):
    wrong = {
        38: "there are 32 lanes; rows 8 to 15 go around again",
        7: "a lane holds two neighbouring columns: 4 and 5 are in one lane",
        3: "3 is the register; in which lane?",
        9: "eight rows share the 32 lanes, four lanes a row",
    }
    if value in wrong:
        raise Mistake(wrong[value])
