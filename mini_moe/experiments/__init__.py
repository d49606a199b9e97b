"""Comparisons over several seeds: the arms, how to run them, and what can be claimed."""

from mini_moe.experiments.designs import DESIGNS, Arm, parameters
from mini_moe.experiments.knock_outs import loss_increases
from mini_moe.experiments.measures import only_domains
from mini_moe.experiments.records import compare, final_losses, load_results
from mini_moe.experiments.statistics import (
    Interval,
    claim,
    mean_interval,
    paired_difference,
    share_interval,
    t_quantile,
)
from mini_moe.experiments.step_time import seconds_per_step

__all__ = ["DESIGNS", "Arm", "Interval", "claim", "compare", "final_losses"]
__all__ += ["load_results", "loss_increases", "mean_interval", "only_domains"]
__all__ += ["paired_difference", "parameters", "seconds_per_step", "share_interval", "t_quantile"]
