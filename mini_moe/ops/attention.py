"""Causal attention over heads whose values may be narrower than their queries and keys."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mini_moe.ops import reference
from mini_moe.ops.context import allowed_form, autocast_dtype

LONGEST_EXPLICIT = 1024  # up to this many keys, backward keeps the [queries, keys] weights
QUERY_BLOCK = 128  # queries multiplied at once with all the keys they can see


def causal_attention(
    query: Float[Tensor, "batch heads queries d_qk"],
    key: Float[Tensor, "batch heads keys d_qk"],
    value: Float[Tensor, "batch heads keys d_v"],
    scale: float,
) -> Float[Tensor, "batch heads queries d_v"]:
    """`reference.attention`: each query sees its own position and all earlier ones.

    The queries are the last positions of the keys, so the same call serves training (as many
    queries as keys) and decoding with a cache (fewer). On the CPU, short sequences keep the
    attention weights for the backward pass; long ones, and all sequences on a GPU, go through
    torch's fused attention, which recomputes them. Under autocast, everything runs in its dtype.

    Raises: ValueError if there are more queries than keys.
    """
    if query.shape[-2] > key.shape[-2]:
        raise ValueError(
            f"query: at most one position per key ({key.shape[-2]}) expected, got {query.shape[-2]}"
        )
    if dtype := autocast_dtype(query):
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    if allowed_form() == "definition":
        return reference.attention(query, key, value, scale)
    if key.shape[-2] > LONGEST_EXPLICIT or query.device.type in ("cuda", "mps"):
        return _fused(query, key, value, scale)
    return BlockwiseAttention.apply(query, key, value, scale)


class BlockwiseAttention(torch.autograd.Function):
    """Explicit attention, one block of queries at a time: keys a block can't see cost nothing.

    With s = (scale · q) kᵀ and p = softmax(s): o = p v. Backward, with dp = do vᵀ:
    ds = p ⊙ (dp − Σ dp ⊙ p), dq = scale · ds k, dk = dsᵀ (scale · q), dv = pᵀ do.
    """

    @staticmethod
    def forward(ctx, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        outputs, weights = [], []
        scaled = query * scale
        mask = query.new_full((QUERY_BLOCK, QUERY_BLOCK), float("-inf")).triu(1)
        for rows, seen in query_blocks(query.shape[-2], key.shape[-2]):
            scores = scaled[..., rows, :] @ key[..., :seen, :].transpose(-1, -2)
            n_rows = rows.stop - rows.start
            scores[..., seen - n_rows :] += mask[:n_rows, :n_rows]
            weights.append(scores.softmax(dim=-1))
            outputs.append(weights[-1] @ value[..., :seen, :])
        ctx.save_for_backward(scaled, key, value, *weights)
        ctx.scale = scale
        return torch.cat(outputs, dim=-2)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        scaled, key, value, *weights = ctx.saved_tensors
        grad_query = torch.empty_like(scaled)
        spans = query_blocks(scaled.shape[-2], key.shape[-2])
        for p, (rows, seen) in reversed(list(zip(weights, spans, strict=True))):
            back = grad[..., rows, :]
            grad_p = back @ value[..., :seen, :].transpose(-1, -2)
            grad_scores = torch._softmax_backward_data(grad_p, p, -1, p.dtype)
            grad_query[..., rows, :] = (grad_scores @ key[..., :seen, :]) * ctx.scale
            to_key = grad_scores.transpose(-1, -2) @ scaled[..., rows, :]
            to_value = p.transpose(-1, -2) @ back
            if seen == key.shape[-2]:  # the last block is processed first and sees every key
                grad_key, grad_value = to_key, to_value
            else:
                grad_key[..., :seen, :] += to_key
                grad_value[..., :seen, :] += to_value
        return grad_query, grad_key, grad_value, None


def query_blocks(queries: int, keys: int) -> list[tuple[slice, int]]:
    """Return blocks of queries, each with the number of keys its last query sees."""
    starts = range(0, queries, QUERY_BLOCK)
    ends = [min(start + QUERY_BLOCK, queries) for start in starts]
    return [
        (slice(start, end), keys - queries + end) for start, end in zip(starts, ends, strict=True)
    ]


def _fused(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Run torch's fused attention, zero-padding queries, keys and values to the same width."""
    queries, keys, d_v = query.shape[-2], key.shape[-2], value.shape[-1]
    width = max(query.shape[-1], d_v)
    query, key, value = (F.pad(t, (0, width - t.shape[-1])) for t in (query, key, value))
    if queries == keys:
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale)
    else:
        sees = ~reference.future(queries, keys, query)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=sees, scale=scale)
    return mixed[..., :d_v]
