"""Laboratories: runs side by side, and what they allow you to claim."""

from mini_moe.views.lab.arms import balance_arms, train_arms
from mini_moe.views.lab.balance_lab import balance_live
from mini_moe.views.lab.chance import chance_load, measures
from mini_moe.views.lab.domains import domain_heatmaps, domain_spread
from mini_moe.views.lab.intervals import difference_rows, interval_line, loss_bands
from mini_moe.views.lab.violations import chance_by_size, violation_curves, violation_rows

__all__ = ["balance_arms", "balance_live", "chance_by_size", "chance_load", "difference_rows"]
__all__ += ["domain_heatmaps", "domain_spread", "interval_line", "loss_bands", "measures"]
__all__ += ["train_arms", "violation_curves", "violation_rows"]
