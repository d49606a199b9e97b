"""The performance-critical operations: one definition each, with faster forms of the same name."""

from mini_moe.ops import stages  # noqa: F401 (registers the compiled stages with torch)
from mini_moe.ops.attention import causal_attention
from mini_moe.ops.choose import choose, likeliest
from mini_moe.ops.context import use
from mini_moe.ops.cross_entropy import cross_entropy
from mini_moe.ops.experts import moe_experts
from mini_moe.ops.gate import route
from mini_moe.ops.latent_attention import latent_attention
from mini_moe.ops.linear import linear
from mini_moe.ops.product import product
from mini_moe.ops.rms_norm import normalise
from mini_moe.ops.rope import rotate
from mini_moe.ops.sorting import SortedRows, sort_rows
from mini_moe.ops.swiglu import swiglu_product
from mini_moe.ops.table import TABLE, describe

__all__ = [
    "TABLE", "SortedRows", "causal_attention", "choose", "cross_entropy", "describe",
    "latent_attention", "likeliest", "linear", "moe_experts", "normalise", "product", "rotate",
    "route", "sort_rows", "swiglu_product", "use",
]  # fmt: skip
