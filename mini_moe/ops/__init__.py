"""The hot operations: a plain definition, and faster forms of the same behind one name."""

from mini_moe.ops import steps  # noqa: F401 (teaches torch the compiled steps)
from mini_moe.ops.attention import causal_attention
from mini_moe.ops.cross_entropy import cross_entropy
from mini_moe.ops.experts import moe_experts
from mini_moe.ops.latent_attention import keys_and_values, latent_attention
from mini_moe.ops.rms_norm import normalise, rms_norm
from mini_moe.ops.rope import apply_rope, rotate
from mini_moe.ops.sorting import SortedRows, sort_rows

__all__ = [
    "SortedRows", "apply_rope", "causal_attention", "cross_entropy", "keys_and_values",
    "latent_attention", "moe_experts", "normalise", "rms_norm", "rotate", "sort_rows",
]  # fmt: skip
