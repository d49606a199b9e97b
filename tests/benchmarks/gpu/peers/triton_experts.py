"""The layer of experts as three small Triton kernels, forward only.

The gather of x is fused into the first product's loads, SwiGLU into its epilogue, and the gates
into the mixing. Rows are sorted by expert; each program computes a tile of one expert's rows, found
in a table that torch builds on the device. Untuned except for the tile height.
"""

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def product_kernel(
    a, row_of, b, expert_of, first_of, offsets, out, experts, k, n,
    SWIGLU: tl.constexpr, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """out[r] = a[row_of[r]] b[e]ᵀ, b [experts, n, k]; or silu(gate) · up, b [experts, 2 n, k]."""
    across = tl.cdiv(n, N)
    tile, column = tl.program_id(0) // across, tl.program_id(0) % across
    expert = tl.load(expert_of + tile)
    if expert >= experts:
        return
    rows = tl.load(first_of + tile) + tl.arange(0, M)
    inside = rows < tl.load(offsets + expert + 1)
    source = tl.load(row_of + rows, mask=inside, other=0)
    columns, depth = column * N + tl.arange(0, N), tl.arange(0, K)
    a_at = a + source[:, None] * k + depth[None, :]
    height = 2 * n if SWIGLU else n
    b_at = b + (expert * height + columns[None, :]) * k + depth[:, None]
    total = tl.zeros((M, N), dtype=tl.float32)
    total_up = tl.zeros((M, N), dtype=tl.float32)
    for start in range(0, k, K):
        deep = start + depth < k
        x = tl.load(a_at + start, mask=inside[:, None] & deep[None, :], other=0.0)
        there = deep[:, None] & (columns[None, :] < n)
        total = tl.dot(x, tl.load(b_at + start, mask=there, other=0.0), total)
        if SWIGLU:
            up = tl.load(b_at + n * k + start, mask=there, other=0.0)
            total_up = tl.dot(x, up, total_up)
    if SWIGLU:
        total = total * tl.sigmoid(total) * total_up
    at = out + rows[:, None] * n + columns[None, :]
    tl.store(at, total.to(out.dtype.element_ty), mask=inside[:, None] & (columns[None, :] < n))


@triton.jit
def mix_kernel(rows, place, gates, out, width, TOP_K: tl.constexpr, D: tl.constexpr):
    """out[t] = Σ_k gates[t, k] · rows[place[t, k]]; each program does one token and D columns."""
    token = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * D + tl.arange(0, D)
    total = tl.zeros((D,), dtype=tl.float32)
    for choice in range(TOP_K):
        row = tl.load(place + token * TOP_K + choice)
        gate = tl.load(gates + token * TOP_K + choice).to(tl.float32)
        values = tl.load(rows + row * width + columns, mask=columns < width, other=0.0)
        total += gate * values.to(tl.float32)
    to = out + token * width + columns
    tl.store(to, total.to(out.dtype.element_ty), mask=columns < width)


def layer(x: Tensor, rows, gates: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """Run the forward pass; `rows` has token, place and offsets."""
    n_rows, (tokens, top_k) = len(rows.token), rows.place.shape
    height = tile_height(n_rows, len(down))
    identity = torch.arange(n_rows, device=x.device)
    hidden = grouped(x, rows.token, gate_up, rows.offsets, height, down.shape[2], swiglu=True)
    out_rows = grouped(hidden, identity, down, rows.offsets, height, down.shape[1], swiglu=False)
    out, width = torch.empty_like(x), 1024
    grid = (tokens, triton.cdiv(x.shape[1], width))
    mix_kernel[grid](out_rows, rows.place, gates, out, x.shape[1], TOP_K=top_k, D=width)
    return out


def grouped(
    a: Tensor, row_of: Tensor, b: Tensor, offsets: Tensor, height: int, n: int, swiglu: bool = False
) -> Tensor:
    """Compute one grouped product over all rows."""
    expert_of, first_of = tile_table(offsets, len(row_of), height)
    out = a.new_empty(len(row_of), n)
    width = 128
    grid = (len(expert_of) * triton.cdiv(n, width),)
    product_kernel[grid](
        a, row_of, b, expert_of, first_of, offsets, out, len(b), b.shape[2], n,
        SWIGLU=swiglu, M=height, N=width, K=64,
        num_warps=8 if height >= 64 else 4, num_stages=3,
    )  # fmt: skip
    return out


def tile_height(n_rows: int, experts: int) -> int:
    """Return the rows per tile: 16, 64 or 128, so that an expert's rows fill it."""
    share = n_rows // experts
    return 128 if share >= 128 else 64 if share >= 32 else 16


def tile_table(offsets: Tensor, n_rows: int, height: int) -> tuple[Tensor, Tensor]:
    """Return each tile's expert and first row; unused tiles, up to the maximum, have no expert."""
    experts = len(offsets) - 1
    ends = ((offsets.diff() + height - 1) // height).cumsum(0)
    tiles = torch.arange(n_rows // height + experts, device=offsets.device)
    expert_of = torch.searchsorted(ends, tiles, right=True)
    known = expert_of.clamp(max=experts - 1)
    begins = F.pad(ends, (1, 0))[known]
    return expert_of, offsets[known] + (tiles - begins) * height
