"""Comparisons at several seeds: which arms there are, how they are run, what can be claimed."""

from mini_moe.experiments.designs import DESIGNS, Arm
from mini_moe.experiments.records import final_losses, load_results
from mini_moe.experiments.statistics import (
    Interval,
    claim,
    mean_interval,
    paired_difference,
    t_quantile,
)

__all__ = ["DESIGNS", "Arm", "Interval", "claim", "final_losses", "load_results"]
__all__ += ["mean_interval", "paired_difference", "t_quantile"]
