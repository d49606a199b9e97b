"""Wrong answers to the exercises of 12_kernels: numbers, and CUDA sources with one fault each."""

from mini_moe.teaching.part4_speed.kernel_threads import (
    BEST_EXPERT_ANSWER,
    COMBINE,
    COMBINE_BODY,
    DIFFERENCES,
)
from mini_moe.teaching.part4_speed.kernels import SIDE_BY_SIDE, SWIZZLED, TRANSPOSE


def changed(source, *changes):
    """Apply each (before, after) replacement to the source; every `before` must occur."""
    for before, after in changes:
        assert before in source, before
        source = source.replace(before, after)
    return source


FIXED_SCALE = changed(
    SIDE_BY_SIDE, ("i % rows, column = i / rows", "i / columns, column = i % columns")
)
COLUMN_READ = "y[row * 32 + lane] = tile[lane][row];"
STORE, USE = "tile[me] = x[t * 128 + me];", "y[t * 128 + me] = tile[me] - tile[before];"


def barriers(store="", use="", barrier="__syncthreads();"):
    """Return DIFFERENCES with a barrier after the store, the use, or both."""
    source = changed(DIFFERENCES, (STORE, f"{STORE} {barrier if store else ''}"))
    return changed(source, (USE, f"{USE} {barrier if use else ''}"))


def best(*changes):
    """Return the correct inner step, modified."""
    return changed(BEST_EXPERT_ANSWER, *changes)


def combined(*changes):
    """Return the correct combine with its body modified."""
    return COMBINE.replace("    // about four lines\n", changed(COMBINE_BODY, *changes))


WRONG = {
    "moved_bytes": {
        "what was asked for": (64, "what the lanes asked for"),
        "the sectors": (32, "number of sectors"),
        "whole lines": (4096, "not whole lines of 128"),
        "one line": (128, "they are not"),
        "as if in fp32": (2048, "too high"),
    },
    "side_by_side": {
        "an unused line more": (SIDE_BY_SIDE + "\n#define NOTHING", "moves 32 sectors where 4"),
        "no guard": (
            changed(FIXED_SCALE, ("if (i >= rows * columns) return;", "")),
            "out of bounds in line 6: thread 35",
        ),
        "turned over": (
            changed(FIXED_SCALE, ("y[row * columns + column]", "y[column * rows + row]")),
            "must stay the same",
        ),
        "only the row mended": (
            changed(SIDE_BY_SIDE, ("i % rows,", "i / columns,")),
            "race in line 6: thread 1 writes `y`[0]; thread 0 wrote it",
        ),
        "a missing semicolon": (changed(FIXED_SCALE, ("return;", "return")), "line 4: "),
    },
    "transpose_tile": {
        "padded below": (changed(TRANSPOSE, ("tile[32][32]", "tile[33][32]")), "1024 wavefronts"),
        "padded by two": (
            changed(TRANSPOSE, ("tile[32][32]", "tile[32][34]")),
            "64 wavefronts, 32 would do: 2 lanes",
        ),
        "no tile at all": (
            changed(TRANSPOSE, (COLUMN_READ, "y[row * 32 + lane] = x[lane * 32 + row];")),
            "x moves",
        ),
        "conflicts in the stores instead": (
            changed(
                TRANSPOSE,
                ("tile[row][lane] =", "tile[lane][row] ="),
                ("tile[lane][row];", "tile[row][lane];"),
            ),
            "writes of the tile take 1024",
        ),
        "the barrier removed": (
            changed(TRANSPOSE, ("[32][32]", "[32][33]"), ("  __syncthreads();\n", "")),
            "which was never written",
        ),
        "too narrow": (changed(TRANSPOSE, ("tile[32][32]", "tile[32][31]")), "out of bounds"),
        "not transposed": (
            changed(TRANSPOSE, ("= tile[lane][row]", "= tile[row][lane]")),
            "not x transposed",
        ),
    },
    "swizzled": {
        "shifted alike in all rows": (
            changed(SWIZZLED, ("column;", "(column + 1) % 32;")),
            "1024 wavefronts",
        ),
        "the lowest three bits only": (
            changed(SWIZZLED, ("column;", "column ^ (row % 8);")),
            "128 wavefronts, 32 would do: 4 lanes",
        ),
        "leaves its row": (changed(SWIZZLED, ("column;", "column + row;")), "tile"),
        "two numbers in one place": (changed(SWIZZLED, ("column;", "column | row;")), "race"),
        "the row alone": (changed(SWIZZLED, ("column;", "row;")), "race"),
        "outside of the tile": (changed(SWIZZLED, ("column;", "column + 32 * row;")), "out of"),
    },
    "differences": {
        "only behind the store": (
            barriers(store=True),
            "one tile is right, but of three: race in line 7: thread 1 reads",
        ),
        "only behind the use": (barriers(use=True), "one tile: race in line 7: thread 1 reads"),
        "a barrier for warps": (
            barriers(store=True, use=True, barrier="__syncwarp();"),
            "thread 31 wrote it at line 6, no barrier between",
        ),
        "a barrier that not all reach": (
            barriers(store=True, use=True, barrier="if (me > 0) __syncthreads();"),
            "divergence in line 6",
        ),
        "before the store": (
            changed(DIFFERENCES, (STORE, f"__syncthreads(); {STORE}")),
            "race",
        ),
        "no shared memory, one element too far": (
            changed(DIFFERENCES, (USE, "y[t * 128 + me] = x[t * 128 + me] - x[t * 128 + me - 1];")),
            "out of bounds in line 7: thread 0",
        ),
        "the other way round": (
            changed(
                barriers(store=True, use=True),
                ("tile[me] - tile[before]", "tile[before] - tile[me]"),
            ),
            "your y at [1] is -1; 1 expected",
        ),
        "without the tile": (
            changed(
                DIFFERENCES,
                (USE, "int i = t * 128 + me; y[i] = i ? x[i] - x[i - 1] : 0;"),
            ),
            "no longer reads the tile",
        ),
    },
    "best_expert": {
        "ties go to whoever": (
            best((" || (other == score && other_id < id)", "")),
            "32 equal scores: lane 0 says expert 0, lane 1 says 1",
        ),
        "the higher number wins": (best(("other_id < id", "other_id > id")), "number wins: 0"),
        "only half of the warp": (best(("bits = 16", "bits = 8")), "says"),
        "shuffled down, lane 0 alone knows": (
            best(("__shfl_xor_sync", "__shfl_down_sync")),
            "expert 11 has the largest score; lane 12 says",
        ),
        "a shuffle in a branch": (
            best(
                ("int other_id = __shfl_xor_sync(0xffffffff, id, bits);", ""),
                ("      id = other_id;", "      id = __shfl_xor_sync(0xffffffff, id, bits);"),
                (" || (other == score && other_id < id)", ""),
            ),
            "divergence in line 8",
        ),
        "half a mask": (best(("0xffffffff", "0xffff")), "divergence"),
        "forgets the score": (best(("      score = other;\n", "")), "says"),
        "a loop without end": (best(("bits > 0", "bits >= 0")), "does this loop end"),
    },
    "combine": {
        "without the gates": (combined(("gates[i] * ", "")), "your out at"),
        "the place of another token": (combined(("token * top_k + k", "token + k")), "your out"),
        "adds to what nobody wrote": (
            combined(
                ("    float sum = 0;\n", ""),
                ("sum += ", "out[token * d_model + d] += "),
                ("    out[token * d_model + d] = sum;\n", ""),
            ),
            "unwritten in line 11: thread 0 reads `out`[0]",
        ),
        "with atomics": (
            combined(
                ("    float sum = 0;\n", "    out[token * d_model + d] = 0;\n"),
                ("sum += gates[i]", "atomicAdd(&out[token * d_model + d], gates[i]"),
                ("+ d];\n    }", "+ d]);\n    }"),
                ("    out[token * d_model + d] = sum;\n", ""),
            ),
            "atomic additions come in another order",
        ),
        "only 32 columns": (
            changed(combined(), ("d < d_model; d += blockDim.x", "d < 32; d += blockDim.x")),
            "200 of 360 numbers of out were never written",
        ),
        "past the end": (
            changed(combined(), ("d < d_model;", "d <= d_model;")),
            "right behind the end of `y`",
        ),
        "neighbours far apart": (
            changed(
                combined(),
                (
                    "int d = threadIdx.x; d < d_model; d += blockDim.x",
                    "int c = threadIdx.x; c < d_model; c += blockDim.x",
                ),
                (
                    "    float sum",
                    "    int d = d_model % 32 ? c : c % 32 * 4 + c / 32;\n    float sum",
                ),
            ),
            "neighbouring columns",
        ),
    },
    "lane_of_c": {
        "goes on counting": (38, "there are 32 lanes"),
        "one column a lane": (7, "two neighbouring columns"),
        "the register": (3, "3 is the register"),
        "the row": (9, "four lanes a row"),
        "the transposed place": (22, "too high"),
    },
}
