"""Where time, bytes and FLOPs go: counted before a step, and measured in it."""

from mini_moe.profiling.counting import (
    Counts,
    StepMemory,
    cache_bytes_per_token,
    count,
    measure_memory,
    muon_flops,
    predict_memory,
)
from mini_moe.profiling.timing import StepProfile, profile_inference, profile_step, read_trace

__all__ = ["Counts", "StepMemory", "StepProfile", "cache_bytes_per_token", "count"]
__all__ += ["measure_memory", "muon_flops", "predict_memory"]
__all__ += ["profile_inference", "profile_step", "read_trace"]
