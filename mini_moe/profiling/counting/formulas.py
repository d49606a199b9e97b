"""FLOP formulas for operations that torch's counter does not know.

Importing this module registers them once, so that `torch.utils.flop_counter.FlopCounterMode` sees
our experts and the CPU's flash attention. Rows that only pad a block are not counted: formulas
count what the mathematics needs.
"""

from collections.abc import Callable

import torch
from torch.utils.flop_counter import (
    flop_registry,
    register_flop_formula,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)

from mini_moe.ops import stages

Shape = tuple[int, ...]


def experts_forward(x: Shape, expert_ids: Shape, gates: Shape, gate_up: Shape, *_, **__) -> int:
    """Three products with d_model × d_expert matrices for each (token, choice)."""
    return 2 * _rows(expert_ids) * 3 * gate_up[2] * gate_up[3]


def experts_backward(grad: Shape, x: Shape, expert_ids: Shape, gates: Shape, gate_up: Shape,
                     *_, **__) -> int:  # fmt: skip
    """Two products per forward product: for the gradients of its input and of its weight."""
    return 2 * experts_forward(x, expert_ids, gates, gate_up)


def grouped_swiglu(x: Shape, token: Shape, offsets: Shape, gate_up: Shape, *_, **__) -> int:
    """Gate and up projections of every row."""
    return 2 * token[0] * 2 * gate_up[2] * gate_up[3]


def grouped_gemm(a: Shape, offsets: Shape, b: Shape, *_, **__) -> int:
    """Every row times its expert's matrix, transposed or not."""
    return 2 * a[0] * b[1] * b[2]


def grouped_wgrad(a: Shape, b: Shape, *_, **__) -> int:
    """Sum of one outer product per row."""
    return 2 * a[0] * a[1] * b[1]


def linear(x: Shape, weight: Shape, *_, **__) -> int:
    """Every token's vector times the matrix."""
    return 2 * x[0] * weight[0] * weight[1]


def linear_backward(grad: Shape, x: Shape, weight: Shape, *_, **__) -> int:
    """One product each for the gradients of x and of the weight."""
    return 2 * linear(x, weight)


def latent_attention(query: Shape, kv: Shape, key_rope: Shape, *_, **__) -> int:
    """Scores and weighted values over all pairs, masked or not; query [batch, new, heads, d_qk]."""
    d_v = kv[3] - (query[3] - key_rope[2])
    return 2 * query[0] * query[1] * query[2] * kv[1] * (query[3] + d_v)


def latent_attention_backward(
    grad: Shape, query: Shape, kv: Shape, key_rope: Shape, *_, **__
) -> int:
    """Two products per forward product; recomputing the scores is not counted."""
    return 2 * latent_attention(query, kv, key_rope)


def cpu_attention(query: Shape, key: Shape, value: Shape, *_, **__) -> int:
    """All pairs, masked or not, as torch counts its other attention kernels."""
    return sdpa_flop_count(query, key, value)


def cpu_attention_backward(grad: Shape, query: Shape, key: Shape, value: Shape, *_, **__) -> int:
    """Five products, because the scores are recomputed."""
    return sdpa_backward_flop_count(grad, query, key, value)


def _rows(expert_ids: Shape) -> int:
    return expert_ids[0] * expert_ids[1]


FORMULAS: dict[str, Callable] = {
    "mini_moe::sorted_experts": experts_forward,
    "mini_moe::sorted_experts_backward": experts_backward,
    "mini_moe::experts_forward": experts_forward,
    "mini_moe::experts_backward": experts_backward,
    "mini_moe::grouped_swiglu": grouped_swiglu,
    "mini_moe::grouped_gemm": grouped_gemm,
    "mini_moe::grouped_wgrad": grouped_wgrad,
    "mini_moe::linear": linear,
    "mini_moe::linear_backward": linear_backward,
    "mini_moe::latent_attention": latent_attention,
    "mini_moe::latent_attention_backward": latent_attention_backward,
    "aten::_scaled_dot_product_flash_attention_for_cpu": cpu_attention,
    "aten::_scaled_dot_product_flash_attention_for_cpu_backward": cpu_attention_backward,
}


def register() -> list[str]:
    """Register the formulas of all operations that exist here; return the names that were new."""
    new = []
    for name, formula in FORMULAS.items():
        namespace, _, operation = name.partition("::")
        packet = getattr(getattr(torch.ops, namespace), operation, None)
        if packet is not None and packet not in flop_registry:
            register_flop_formula(packet)(formula)
            new.append(name)
    return new


REGISTERED = register() if stages else []  # importing `stages` loads the compiled operations first
