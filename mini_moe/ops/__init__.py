"""The hot operations: a plain definition, and faster forms of the same behind one name."""

from mini_moe.ops import steps  # noqa: F401 (teaches torch the compiled steps)
from mini_moe.ops.attention import causal_attention
from mini_moe.ops.cross_entropy import cross_entropy
from mini_moe.ops.decode import likeliest
from mini_moe.ops.experts import moe_experts
from mini_moe.ops.latent_attention import latent_attention
from mini_moe.ops.linear import linear
from mini_moe.ops.rms_norm import add_and_normalise, normalise
from mini_moe.ops.rope import rotate
from mini_moe.ops.sorting import SortedRows, sort_rows
from mini_moe.ops.swiglu import swiglu_product
from mini_moe.ops.topk_gate import choose, topk_gate

__all__ = [
    "SortedRows", "add_and_normalise", "causal_attention", "choose", "cross_entropy",
    "latent_attention", "likeliest", "linear", "moe_experts", "normalise", "rotate", "sort_rows",
    "swiglu_product", "topk_gate",
]  # fmt: skip
