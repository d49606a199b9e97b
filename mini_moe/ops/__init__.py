"""The hot operations: a plain definition, and faster forms of the same behind one name."""

from mini_moe.ops import steps  # noqa: F401 (teaches torch the compiled steps)
from mini_moe.ops.attention import causal_attention
from mini_moe.ops.experts import moe_experts
from mini_moe.ops.sorting import SortedRows, sort_rows

__all__ = ["SortedRows", "causal_attention", "moe_experts", "sort_rows"]
