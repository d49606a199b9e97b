"""Where time, bytes and FLOPs go: counted before a step, and measured in it."""

from mini_moe.profiling.counting import (
    Counts, StepMemory, cache_bytes_per_token, count, measure_memory, muon_flops, predict_memory,
)  # fmt: skip
from mini_moe.profiling.growth import Growth, fit_power, measure_growth
from mini_moe.profiling.limits import Limits, machine_limits
from mini_moe.profiling.roofline import Roofline, roofline
from mini_moe.profiling.timing import StepProfile, profile_inference, profile_step, read_trace

__all__ = ["Counts", "Growth", "Limits", "Roofline", "StepMemory", "StepProfile"]
__all__ += ["cache_bytes_per_token", "count", "fit_power", "machine_limits", "measure_growth"]
__all__ += ["measure_memory", "muon_flops", "predict_memory", "profile_inference", "profile_step"]
__all__ += ["read_trace", "roofline"]
