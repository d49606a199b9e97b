"""Needle-in-a-haystack tests over a grid of depths and lengths."""

from mini_moe.experiments.needle.grid import NeedleGrid, needle_grid, retrieves
from mini_moe.text.needle import NeedleExample, needle_example
from mini_moe.training.context import stretched

__all__ = ["NeedleExample", "NeedleGrid", "needle_example", "needle_grid", "retrieves", "stretched"]
