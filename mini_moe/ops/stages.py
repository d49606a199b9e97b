"""The compiled stages of the expert layer as separate operations, without hidden state.

`mini_moe::topk_gate`, `sort_rows`, `grouped_swiglu`, `grouped_gemm`, `grouped_wgrad` and `combine`
exist if the library is loaded (`ops.describe()`); importing this module registers their shapes with
torch (`gate.py` those of the gate). The products have no derivative of their own: the layer in
`experts.py` does, and it uses none of these operations.
"""

import torch
from torch import Tensor

from mini_moe.ops import compiled
from mini_moe.ops.registration import no_gradient

PRODUCTS = ("grouped_swiglu", "grouped_gemm", "grouped_wgrad", "combine")
OPERATIONS = ("topk_gate", "sort_rows", *PRODUCTS)


def _sort_rows(expert_ids: Tensor, n_experts: int):
    rows = expert_ids.new_empty(expert_ids.numel())
    place, counts = expert_ids.new_empty(expert_ids.shape), expert_ids.new_empty(n_experts)
    return rows, place, counts, expert_ids.new_empty(n_experts + 1)


def _grouped_swiglu(x: Tensor, token: Tensor, offsets: Tensor, gate_up_proj: Tensor, keep: bool):
    rows, d_expert = len(token), gate_up_proj.shape[2]
    return x.new_empty(rows, d_expert), x.new_empty(rows if keep else 0, 2 * d_expert)


def _grouped_gemm(a: Tensor, offsets: Tensor, b: Tensor, transposed: bool):
    return a.new_empty(len(a), b.shape[1 if transposed else 2])


def _grouped_wgrad(a: Tensor, b: Tensor, offsets: Tensor):
    return a.new_empty(len(offsets) - 1, a.shape[1], b.shape[1])


def _combine(rows: Tensor, place: Tensor, gates: Tensor | None):
    return rows.new_empty(len(place), rows.shape[1])


if not compiled.WHY_NOT:
    for name in ("sort_rows", *PRODUCTS):
        torch.library.register_fake(f"mini_moe::{name}", globals()[f"_{name}"])
    for name in PRODUCTS:
        torch.library.register_autograd(f"mini_moe::{name}", no_gradient)
