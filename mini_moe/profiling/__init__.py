"""Where time, bytes and FLOPs go: counted before a training step, and measured during it."""

from mini_moe.profiling.counting import Counts, cache_bytes_per_token, count, muon_flops
from mini_moe.profiling.counting.memory import StepMemory, measure_memory, predict_memory
from mini_moe.profiling.growth import Growth, fit_power, measure_growth
from mini_moe.profiling.limits import Limits, machine_limits
from mini_moe.profiling.roofline import Roofline, roofline
from mini_moe.profiling.timing import StepProfile, read_trace
from mini_moe.profiling.timing.steps import profile_inference, profile_step, time_steps

__all__ = ["Counts", "Growth", "Limits", "Roofline", "StepMemory", "StepProfile"]
__all__ += ["cache_bytes_per_token", "count", "fit_power", "machine_limits", "measure_growth"]
__all__ += ["measure_memory", "muon_flops", "predict_memory", "profile_inference", "profile_step"]
__all__ += ["read_trace", "roofline", "time_steps"]
