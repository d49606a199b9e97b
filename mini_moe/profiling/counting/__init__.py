"""What a model will cost, before it runs: parameters, FLOPs, bytes and memory."""

from mini_moe.profiling.counting.caches import cache_bytes_per_token
from mini_moe.profiling.counting.formulas import FORMULAS
from mini_moe.profiling.counting.memory import StepMemory, measure_memory, predict_memory
from mini_moe.profiling.counting.parts import muon_flops
from mini_moe.profiling.counting.table import Counts, Row, count

__all__ = ["FORMULAS", "Counts", "Row", "StepMemory", "cache_bytes_per_token", "count"]
__all__ += ["measure_memory", "muon_flops", "predict_memory"]
