"""Wrong answers to the exercises of 09_moe_vs_dense."""

import bisect
import math
import statistics

from mini_moe.experiments import mean_interval, t_quantile
from mini_moe.teaching.part2_train.sparsity import loss_at_seconds, moe_layer_flops


def one_a_weight(config):
    """Counts multiply-adds."""
    return moe_layer_flops(config) // 2


def no_router(config):
    """Leaves the router's rows out."""
    return moe_layer_flops(config) - 2 * config.n_routed_experts * config.d_model


def no_shared(config):
    """Only routed experts."""
    one = 6 * config.d_model * config.d_expert
    return moe_layer_flops(config) - config.n_shared_experts * one


def all_experts(config):
    """Every expert works on every token."""
    experts = config.n_routed_experts + config.n_shared_experts
    return 2 * config.d_model * (config.n_routed_experts + 3 * experts * config.d_expert)


def two_matrices(config):
    """An expert without its gate projection."""
    visited = config.top_k + config.n_shared_experts
    return moe_layer_flops(config) - 2 * visited * config.d_model * config.d_expert


def differences(first, second):
    return [a - b for a, b in zip(first, second, strict=True)]


def around(first, second, half):
    mean = statistics.fmean(differences(first, second))
    return mean, mean - half, mean + half


def normal(first, second):
    """1.96 whatever the number of runs."""
    found = differences(first, second)
    return around(first, second, 1.959964 * statistics.stdev(found) / math.sqrt(len(found)))


def one_sided(first, second):
    """The 95 % quantile."""
    found = differences(first, second)
    t = t_quantile(0.95, len(found) - 1)
    return around(first, second, t * statistics.stdev(found) / math.sqrt(len(found)))


def population(first, second):
    """Divides by n."""
    found = differences(first, second)
    t = t_quantile(0.975, len(found) - 1)
    return around(first, second, t * statistics.pstdev(found) / math.sqrt(len(found)))


def without_root(first, second):
    """The scatter of runs in place of the error of their mean."""
    found = differences(first, second)
    return around(first, second, t_quantile(0.975, len(found) - 1) * statistics.stdev(found))


def unpaired(first, second):
    """Adds the scatter of both arms."""
    scatter = math.hypot(statistics.stdev(first), statistics.stdev(second))
    t = t_quantile(0.975, len(first) - 1)
    return around(first, second, t * scatter / math.sqrt(len(first)))


def three_is_enough(first, second):
    """t of three runs, always."""
    found = differences(first, second)
    return around(first, second, 4.302653 * statistics.stdev(found) / math.sqrt(len(found)))


def last_finished(seconds, losses, budget):
    """The loss of the longest run that the budget covers."""
    runs = sorted(zip(seconds, losses, strict=True))
    return runs[bisect.bisect_right([s for s, _ in runs], budget) - 1][1]


def wrong_way(seconds, losses, budget):
    """Weighs the farther run more."""
    runs = sorted(zip(seconds, losses, strict=True))
    for (a, high), (b, low) in zip(runs, runs[1:], strict=False):
        if a <= budget <= b:
            return low + (high - low) * (budget - a) / (b - a)


def middle(seconds, losses, budget):
    """The mean of both neighbours."""
    runs = sorted(zip(seconds, losses, strict=True))
    for (a, high), (b, low) in zip(runs, runs[1:], strict=False):
        if a <= budget <= b:
            return (high + low) / 2


def first_and_last(seconds, losses, budget):
    """A line from the first run to the last, whatever lies between."""
    runs = sorted(zip(seconds, losses, strict=True))
    (a, high), (b, low) = runs[0], runs[-1]
    return high + (low - high) * (budget - a) / (b - a)


def unsorted(seconds, losses, budget):
    """Believes that runs come by rising time."""
    runs = list(zip(seconds, losses, strict=True))
    for (a, high), (b, low) in zip(runs, runs[1:], strict=False):
        if min(a, b) <= budget <= b:
            return high + (low - high) * (budget - a) / (b - a)
    return loss_at_seconds(seconds, losses, max(seconds))


WRONG = {
    "moe_layer_flops": {
        "one FLOP a weight": (one_a_weight, "multiplied and added"),
        "without the router": (no_router, "router is left out"),
        "without the shared expert": (no_shared, "shared expert is left out"),
        "all experts": (all_experts, "all experts work"),
        "two matrices an expert": (two_matrices, "expected"),
    },
    "v3_twin_width": {
        "routed only": (16_384, "leaves the shared expert out"),
        "all experts": (526_336, "equal total parameters"),
        "one expert": (2048, "too low"),
    },
    "finer_combinations": {
        "before the split": (120, "before the split"),
        "orders": (math.perm(64, 8), "counts orders"),
        "still two": (2016, "still chooses two"),
        "with repetition": (64**8, "more than once"),
    },
    "paired_difference": {
        "second minus first": (lambda a, b: mean_interval(differences(b, a)), "first from the"),
        "the normal distribution": (normal, "1.96 belongs"),
        "one-sided": (one_sided, "97.5 %"),
        "divides by n": (population, "divides by n − 1"),
        "no root of n": (without_root, "divided by √n"),
        "unpaired": (unpaired, "cancels"),
        "t of three runs": (three_is_enough, "five seeds"),
    },
    "loss_at_seconds": {
        "the last finished run": (last_finished, "you take the loss of one run"),
        "the wrong way round": (wrong_way, "wrong way round"),
        "the middle": (middle, "quarter of the way"),
        "first and last run only": (first_and_last, "second gap"),
        "believes the order": (unsorted, "another order"),
    },
}
