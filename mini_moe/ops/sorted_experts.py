"""The fast PyTorch path of a mixture of experts: sort, multiply block by block, gather and add.

Only matrix products loop over experts. Mixing is a gather with a sum per token instead of a
scattered addition, so the same input gives the same bits on every run, and nothing of size
[tokens, top_k, d_model] is ever written.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from mini_moe.ops.sorting import SortedRows, sort_rows


def forward(
    x: Float[Tensor, "tokens d_model"],
    expert_ids: Int[Tensor, "tokens top_k"],
    gates: Float[Tensor, "tokens top_k"],
    gate_up_proj: Float[Tensor, "experts 2 d_expert d_model"],
    down_proj: Float[Tensor, "experts d_model d_expert"],
) -> tuple[Tensor, Tensor, Tensor]:
    """The mixed output [tokens, d_model], and for the backward pass gate_up [rows, 2·d_expert]
    and the sorted order [rows]."""
    rows = sort_rows(expert_ids, len(down_proj))
    x_rows = x.index_select(0, rows.order // expert_ids.shape[1])
    gate_up = x.new_empty(len(x_rows), 2 * gate_up_proj.shape[2])
    output = x.new_empty(len(x_rows), x.shape[1])
    for expert, block in blocks(rows):
        torch.mm(x_rows[block], gate_up_proj[expert].flatten(0, 1).T, out=gate_up[block])
    gate, up = gate_up.chunk(2, dim=-1)
    hidden = F.silu(gate) * up
    for expert, block in blocks(rows):
        torch.mm(hidden[block], down_proj[expert].T, out=output[block])
    return gather_sum(output, rows.place, gates.to(x.dtype)), gate_up, rows.order


def backward(
    grad: Float[Tensor, "tokens d_model"],
    x: Float[Tensor, "tokens d_model"],
    expert_ids: Int[Tensor, "tokens top_k"],
    gates: Float[Tensor, "tokens top_k"],
    gate_up_proj: Float[Tensor, "experts 2 d_expert d_model"],
    down_proj: Float[Tensor, "experts d_model d_expert"],
    gate_up: Float[Tensor, "rows two_d_expert"],
    order: Int[Tensor, "rows"],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, gates, gate_up_proj and down_proj.

    With h = silu(g)·u and y = W_down h, a gate's gradient is ⟨grad, y⟩ = ⟨W_downᵀ grad, h⟩: it
    follows from what the gradient of h needs anyway, and y is never stored.
    """
    rows = restore_rows(order, expert_ids, len(down_proj))
    tokens = order // expert_ids.shape[1]
    grad_rows, x_rows = grad.index_select(0, tokens), x.index_select(0, tokens)
    gate, up = gate_up.chunk(2, dim=-1)
    gate_rows = gates.reshape(-1).index_select(0, order).to(x.dtype).unsqueeze(-1)
    sigmoid = gate.sigmoid()
    silu = gate * sigmoid
    hidden = silu * up

    back = torch.empty_like(hidden)
    grad_down = torch.zeros_like(down_proj)
    weighted = hidden * gate_rows
    for expert, block in blocks(rows):
        torch.mm(grad_rows[block], down_proj[expert], out=back[block])
        torch.mm(grad_rows[block].T, weighted[block], out=grad_down[expert])
    grad_gates = (back * hidden).sum(dim=-1, dtype=gates.dtype)
    back *= gate_rows

    grad_gate_up = torch.empty_like(gate_up)
    torch.mul(back * up, sigmoid + silu * (1 - sigmoid), out=grad_gate_up[:, : hidden.shape[1]])
    torch.mul(back, silu, out=grad_gate_up[:, hidden.shape[1] :])
    grad_x_rows = torch.empty_like(x_rows)
    grad_weights = torch.zeros_like(gate_up_proj)
    for expert, block in blocks(rows):
        weights = gate_up_proj[expert].flatten(0, 1)
        torch.mm(grad_gate_up[block], weights, out=grad_x_rows[block])
        torch.mm(grad_gate_up[block].T, x_rows[block], out=grad_weights[expert].flatten(0, 1))
    grad_x = gather_sum(grad_x_rows, rows.place)
    return grad_x, grad_gates[rows.place], grad_weights, grad_down


def blocks(rows: SortedRows) -> Iterator[tuple[int, slice]]:
    """The experts that have rows, each with the slice its rows occupy."""
    end = 0
    for expert, count in enumerate(rows.counts.tolist()):
        start, end = end, end + count
        if count:
            yield expert, slice(start, end)


def gather_sum(
    values: Float[Tensor, "rows d"],
    place: Int[Tensor, "tokens top_k"],
    weights: Float[Tensor, "tokens top_k"] | None = None,
) -> Float[Tensor, "tokens d"]:
    """Σ_k weights[t, k] · values[place[t, k]], fused: an embedding bag over sorted rows."""
    return F.embedding_bag(place, values, per_sample_weights=weights, mode="sum")


def restore_rows(
    order: Int[Tensor, "rows"], expert_ids: Int[Tensor, "tokens top_k"], n_experts: int
) -> SortedRows:
    """The sorting of `sort_rows` from its order alone, without sorting again."""
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    counts = torch.bincount(expert_ids.reshape(-1), minlength=n_experts)
    return SortedRows(order, place.view(expert_ids.shape), counts, counts.cumsum(0))
