"""Pictures of a profiled step: time, limits, growth, memory."""

from mini_moe.views.profile.curves import growth_curves, memory_bars
from mini_moe.views.profile.roofs import roofline_chart
from mini_moe.views.profile.step import ladder_bars, step_bars, step_timeline

__all__ = ["growth_curves", "ladder_bars", "memory_bars", "roofline_chart", "step_bars"]
__all__ += ["step_timeline"]
