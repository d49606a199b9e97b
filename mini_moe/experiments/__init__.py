"""Comparisons at several seeds: which arms there are, how they are run, what can be claimed."""

from mini_moe.experiments.designs import DESIGNS, Arm, parameters
from mini_moe.experiments.knock_outs import loss_increases
from mini_moe.experiments.measures import only_domains
from mini_moe.experiments.records import final_losses, load_results
from mini_moe.experiments.statistics import (
    Interval,
    claim,
    mean_interval,
    paired_difference,
    t_quantile,
)
from mini_moe.experiments.step_time import seconds_per_step

__all__ = ["DESIGNS", "Arm", "Interval", "claim", "final_losses", "load_results"]
__all__ += ["loss_increases", "mean_interval", "only_domains", "paired_difference"]
__all__ += ["parameters", "seconds_per_step", "t_quantile"]
