"""Where time, bytes and FLOPs go: counted before a step, and measured in it."""

from mini_moe.profiling.counting import Counts, cache_bytes_per_token, count, muon_flops

__all__ = ["Counts", "cache_bytes_per_token", "count", "muon_flops"]
