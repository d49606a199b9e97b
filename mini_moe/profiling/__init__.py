"""Where time, bytes and FLOPs go: counted before a step, and measured in it."""

from mini_moe.profiling.counting import Counts, cache_bytes_per_token, count, muon_flops
from mini_moe.profiling.timing import StepProfile, profile_inference, profile_step, read_trace

__all__ = ["Counts", "StepProfile", "cache_bytes_per_token", "count", "muon_flops"]
__all__ += ["profile_inference", "profile_step", "read_trace"]
