"""Laboratories: runs side by side, and what can be claimed from them."""

from mini_moe.views.lab.arms import balance_arms, train_arms
from mini_moe.views.lab.balance_lab import balance_live
from mini_moe.views.lab.chance import chance_load, measures
from mini_moe.views.lab.intervals import difference_rows, interval_line, loss_bands

__all__ = ["balance_arms", "balance_live", "chance_load", "measures", "train_arms"]
__all__ += ["difference_rows", "interval_line", "loss_bands"]
