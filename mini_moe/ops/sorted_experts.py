"""The fast PyTorch form of a mixture of experts: sort, multiply block by block, gather and add.

Only the matrix products loop over experts. Outputs are gathered and summed per token rather than
scattered and added, so the same input gives the same bits on every run, and nothing of size
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
    keep: bool = True,
) -> tuple[Tensor, Tensor]:
    """Return the mixed output [tokens, d_model] and gate_up [most_rows, 2·d_expert] for backward.

    Without `keep`, gate_up is empty and there can be no backward pass.
    """
    experts, _, d_expert, d_model = gate_up_proj.shape
    multiple = row_multiple(expert_ids.numel(), experts)
    rows = sort_rows(expert_ids, experts, multiple)
    x_rows = gather_sum(x, rows.token[:, None])
    most = most_rows(expert_ids.numel(), experts) if keep else len(x_rows)
    saved = x.new_empty(most, 2 * d_expert)
    gate_up, unused = saved.split([len(x_rows), len(saved) - len(x_rows)])
    unused.zero_()
    for expert, block in blocks(rows):
        torch.mm(x_rows[block], gate_up_proj[expert].flatten(0, 1).T, out=gate_up[block])
    gate, up = gate_up.chunk(2, dim=-1)
    hidden = F.silu(gate) * up
    output = torch.empty_like(x_rows)
    for expert, block in blocks(rows):
        torch.mm(hidden[block], down_proj[expert].T, out=output[block])
    kept = saved if keep else x.new_empty(0, 2 * d_expert)
    return gather_sum(output, rows.place, gates.to(x.dtype)), kept


def backward(
    grad: Float[Tensor, "tokens d_model"],
    x: Float[Tensor, "tokens d_model"],
    expert_ids: Int[Tensor, "tokens top_k"],
    gates: Float[Tensor, "tokens top_k"],
    gate_up_proj: Float[Tensor, "experts 2 d_expert d_model"],
    down_proj: Float[Tensor, "experts d_model d_expert"],
    saved: Float[Tensor, "most_rows two_d_expert"],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of x, gates, gate_up_proj and down_proj.

    With h = silu(g)·u and y = W_down h, a gate's gradient is ⟨grad, y⟩ = ⟨W_downᵀ grad, h⟩. The
    gradient of h needs the same product anyway, so y is never stored. Padding rows have a gate of
    zero, so they add nothing to any weight's gradient.
    """
    experts, _, d_expert, d_model = gate_up_proj.shape
    rows = sort_rows(expert_ids, experts, row_multiple(expert_ids.numel(), experts))
    grad_rows, x_rows = gather_sum(grad, rows.token[:, None]), gather_sum(x, rows.token[:, None])
    gate, up = saved[: len(x_rows)].chunk(2, dim=-1)
    gate_rows = x.new_zeros(len(x_rows), 1)
    gate_rows[rows.place] = gates.to(x.dtype).unsqueeze(-1)
    silu = F.silu(gate)
    hidden = silu * up

    back = torch.empty_like(hidden)
    weighted = hidden * gate_rows
    grad_down = torch.zeros_like(down_proj)
    for expert, block in blocks(rows):
        torch.mm(grad_rows[block], down_proj[expert], out=back[block])
        torch.mm(grad_rows[block].T, weighted[block], out=grad_down[expert])
    grad_gates = (back * hidden).sum(dim=-1)[rows.place].to(gates.dtype)
    back *= gate_rows

    grad_gate_up = x.new_empty(len(x_rows), 2 * d_expert)
    grad_gate_up[:, :d_expert] = torch.ops.aten.silu_backward(back * up, gate)
    torch.mul(back, silu, out=grad_gate_up[:, d_expert:])
    grad_x_rows = torch.empty_like(x_rows)
    grad_weights = torch.zeros_like(gate_up_proj)
    for expert, block in blocks(rows):
        weights = gate_up_proj[expert].flatten(0, 1)
        torch.mm(grad_gate_up[block], weights, out=grad_x_rows[block])
        torch.mm(grad_gate_up[block].T, x_rows[block], out=grad_weights[expert].flatten(0, 1))
    return gather_sum(grad_x_rows, rows.place), grad_gates, grad_weights, grad_down


def blocks(rows: SortedRows) -> Iterator[tuple[int, slice]]:
    """Yield each expert that has rows, with the slice they occupy, including padding."""
    offsets = rows.offsets.tolist()
    for expert, (start, end) in enumerate(zip(offsets, offsets[1:], strict=False)):
        if end > start:
            yield expert, slice(start, end)


def row_multiple(n_rows: int, n_experts: int) -> int:
    """Return the multiple that blocks are padded to: a power of two, about 1/16 of an even share.

    Loads differ at every step, and a CPU's bfloat16 library compiles a routine for each new number
    of rows, which takes longer than the product itself. With padding, the same few sizes recur.
    """
    share = n_rows // (16 * n_experts)
    return 1 << (share.bit_length() - 1) if share else 1


def most_rows(n_rows: int, n_experts: int) -> int:
    """Return the maximum number of rows with padding: a size known before tokens are routed."""
    return n_rows + n_experts * (row_multiple(n_rows, n_experts) - 1)


def gather_sum(
    values: Float[Tensor, "rows d"],
    place: Int[Tensor, "tokens top_k"],
    weights: Float[Tensor, "tokens top_k"] | None = None,
) -> Float[Tensor, "tokens d"]:
    """Σ_k weights[t, k] · values[place[t, k]], fused as an embedding bag over sorted rows."""
    return F.embedding_bag(place, values, per_sample_weights=weights, mode="sum")


sorted_experts = torch.library.custom_op(
    "mini_moe::sorted_experts",
    forward,
    mutates_args=(),
    schema="(Tensor x, Tensor expert_ids, Tensor gates, Tensor gate_up_proj, Tensor down_proj,"
    " bool keep=True) -> (Tensor, Tensor)",
)
sorted_experts_backward = torch.library.custom_op(
    "mini_moe::sorted_experts_backward",
    backward,
    mutates_args=(),
    schema="(Tensor grad, Tensor x, Tensor expert_ids, Tensor gates, Tensor gate_up_proj,"
    " Tensor down_proj, Tensor saved) -> (Tensor, Tensor, Tensor, Tensor)",
)


@sorted_experts.register_fake
def _(x, expert_ids, gates, gate_up_proj, down_proj, keep=True):
    experts, _, d_expert, _ = gate_up_proj.shape
    most = most_rows(expert_ids.numel(), experts) if keep else 0
    return x.new_empty(x.shape), x.new_empty(most, 2 * d_expert)


@sorted_experts_backward.register_fake
def _(grad, x, expert_ids, gates, gate_up_proj, down_proj, saved):
    return tuple(t.new_empty(t.shape) for t in (x, gates, gate_up_proj, down_proj))


def _save(ctx, inputs, output) -> None:
    *tensors, ctx.keep = inputs
    ctx.save_for_backward(*tensors, output[1])
    ctx.set_materialize_grads(False)


def _differentiate(ctx, grad, _grad_saved):
    if grad is None:
        return None, None, None, None, None, None
    if not ctx.keep:
        raise RuntimeError("moe_experts ran with keep=False, so it can't be differentiated")
    grads = sorted_experts_backward(grad.contiguous(), *ctx.saved_tensors)
    return grads[0], None, *grads[1:], None


sorted_experts.register_autograd(_differentiate, setup_context=_save)
