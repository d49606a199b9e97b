"""What a model costs before it runs: parameters, FLOPs, bytes and memory, exactly."""

from mini_moe.profiling.counting.caches import cache_bytes_per_token
from mini_moe.profiling.counting.formulas import FORMULAS
from mini_moe.profiling.counting.parts import muon_flops
from mini_moe.profiling.counting.table import Counts, Row, count

__all__ = ["FORMULAS", "Counts", "Row", "cache_bytes_per_token", "count", "muon_flops"]
