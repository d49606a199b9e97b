"""Exercises of 09_moe_vs_dense: fair twins, combinations, intervals, equal wall clock."""

import itertools
import math
import statistics
from collections.abc import Sequence

from mini_moe import presets
from mini_moe.config import ModelConfig
from mini_moe.experiments import paired_difference
from mini_moe.teaching.exercise import Mistake, exercise, value_exercise


def moe_layer_flops(config: ModelConfig) -> int:
    """FLOPs of one token in one layer of experts, forward: two for each weight that it meets.

    The router has n_routed_experts rows of d_model; an expert has three matrices of
    d_model × d_expert. Activations and sums are left out.
    """
    router = config.n_routed_experts * config.d_model
    visited = config.top_k + config.n_shared_experts
    return 2 * (router + visited * 3 * config.d_model * config.d_expert)


flops = exercise(
    moe_layer_flops,
    difficulty=2,
    importance=4,
    minutes=6,
    hints=(
        "Which experts does one token meet: all of them, or how many?",
        "The shared experts work as well; the router scores every routed expert.",
        "2 · (n_routed_experts · d_model + (top_k + n_shared_experts) · 3 · d_model · d_expert)",
    ),
)


@flops.probe("the model of the lessons")
def _(student):
    config, found = presets.tiny(), student(presets.tiny())
    wanted = moe_layer_flops(config)
    all_of_them = 2 * config.n_routed_experts * config.d_model * (1 + 3 * config.d_expert)
    wrong = {
        wanted // 2: "one FLOP a weight; a weight is multiplied and added, that is two",
        wanted - 2 * config.n_routed_experts * config.d_model: "the router is left out",
        wanted - 6 * config.d_model * config.d_expert: "the shared expert is left out",
        all_of_them: "all experts work; a token meets only top_k of them",
        all_of_them + 6 * config.d_model * config.d_expert: "all experts work, not only top_k",
    }
    if found in wrong:
        raise Mistake(f"{found:,} means that {wrong[found]}")


flops.agrees("the laboratory's model", lambda: (presets.lab(),))
flops.agrees("DeepSeek-V3", lambda: (presets.deepseek_v3(),))

twin = value_exercise(
    "v3_twin_width",
    18_432,
    explanation="A token meets 8 routed experts and 1 shared one, each 2,048 wide: "
    "9 · 2,048 = 18,432. That is the d_ff of DeepSeek-V3's three dense layers: its designers "
    "gave dense and sparse layers the same FLOPs (the router aside).",
    difficulty=2,
    importance=4,
    minutes=3,
    hints=(
        "Two networks with equal hidden width and equal d_model need equal FLOPs.",
        "How many experts, shared ones included, does a token of DeepSeek-V3 meet?",
        "`presets.deepseek_v3()` knows top_k, n_shared_experts and d_expert.",
    ),
)


@twin.probe()
def _(value):
    if value == 16_384:
        raise Mistake("16,384 leaves the shared expert out")
    if value in (257 * 2048, 256 * 2048):
        raise Mistake(f"{value:,} has equal total parameters; equal FLOPs are asked for")


sets = value_exercise(
    "finer_combinations",
    math.comb(64, 8),
    explanation="C(64, 8) = 64! / (8! · 56!) = 4,426,165,368; `math.comb(64, 8)`. With 16 experts "
    "and two a token there were C(16, 2) = 120.",
    difficulty=1,
    importance=3,
    minutes=3,
    hints=(
        "The order in which experts are chosen makes no difference to the result.",
        "`math.comb(n, k)` counts the ways of choosing k out of n.",
    ),
)


@sets.probe()
def _(value):
    if value == math.perm(64, 8):
        raise Mistake("that counts orders as well; the sum over experts does not know an order")
    if value == math.comb(16, 2):
        raise Mistake("120 is before the split; now there are 64 experts and 8 a token")
    if value == math.comb(64, 2):
        raise Mistake("2,016 still chooses two; experts a quarter as wide allow 8 for the same")
    if value == 64**8:
        raise Mistake("that lets one expert be chosen more than once")


interval = exercise(
    paired_difference,
    difficulty=3,
    importance=5,
    minutes=10,
    hints=(
        "First the differences, seed by seed. After that there is only one list.",
        "`statistics.stdev` divides by n − 1; the error of a mean is stdev / √n.",
        "half = t_quantile(0.975, n − 1) · stdev / √n; return mean, mean − half, mean + half.",
    ),
)


@interval.probe("losses 3.0, 3.2, 3.1 against 3.1, 3.4, 3.2")
def _(student):
    first, second = [3.0, 3.2, 3.1], [3.1, 3.4, 3.2]
    mean, low, high = student(first, second)
    wanted = paired_difference(first, second)
    if abs(mean + wanted.mean) < 1e-6:
        raise Mistake(f"the mean is {mean:+.3g}: you subtract the first from the second")
    half = (high - low) / 2
    unpaired = math.hypot(statistics.stdev(first), statistics.stdev(second))
    paired = statistics.stdev(a - b for a, b in zip(first, second, strict=True))
    for factor, reason in (
        (1.959964 / 4.302653, "1.96 belongs to many runs; with three, t is 4.303"),
        (2.919986 / 4.302653, "the quantile is that of 97.5 %, so that 2.5 % lie on either side"),
        ((2 / 3) ** 0.5, "the standard deviation of a sample divides by n − 1"),
        (3**0.5, "the error of a mean is the standard deviation divided by √n"),
        (unpaired / paired, "take differences first, so that what the seed does to both cancels"),
    ):
        if math.isclose(half, factor * wanted.half, rel_tol=1e-3):
            raise Mistake(f"half the width is {half:.4f}; {wanted.half:.4f} expected: {reason}")


interval.agrees("five seeds", lambda: ([3.1, 3.0, 3.3, 3.2, 3.15], [3.2, 3.1, 3.3, 3.35, 3.3]))


def loss_at_seconds(
    seconds: Sequence[int | float], losses: Sequence[int | float], budget: int | float
) -> float:
    """Loss that a budget of seconds buys, on the straight line between two finished runs.

    Raises: ValueError for a budget outside the runs.
    """
    runs = sorted(zip(seconds, losses, strict=True))
    for (early, high), (late, low) in itertools.pairwise(runs):
        if early <= budget <= late:
            return high + (low - high) * (budget - early) / (late - early)
    raise ValueError(f"budget={budget}: {runs[0][0]} to {runs[-1][0]} seconds expected")


at_seconds = exercise(
    loss_at_seconds,
    difficulty=3,
    importance=4,
    minutes=10,
    hints=(
        "Find the two runs, one shorter and one longer than the budget.",
        "share = (budget − early) / (late − early) says how far along the way the budget lies.",
        "loss = loss of the shorter + share · (loss of the longer − loss of the shorter)",
    ),
)


@at_seconds.probe("runs of 10 s and 30 s ended at 4.0 and 3.0; the budget is 15 s")
def _(student):
    found = student([10, 30], [4.0, 3.0], 15)
    if found in (3.0, 4.0):
        raise Mistake(f"you take the loss of one run, {found}; the budget lies between two")
    if abs(found - 3.25) < 1e-6:
        raise Mistake("3.25 weighs the two the wrong way round; 15 s is nearer to 10 s")
    if abs(found - 3.5) < 1e-6:
        raise Mistake("3.5 is the middle of both; 15 s lies a quarter of the way")


at_seconds.agrees("three runs, a budget in the second gap", lambda: ([5, 10, 20], [4, 3, 2], 12))
at_seconds.agrees("a budget that is a run's own", lambda: ([5.0, 10.0, 20.0], [4.0, 3.0, 2.5], 10))
at_seconds.agrees("runs in another order", lambda: ([20, 5, 10], [2.5, 4.0, 3.0], 15))
