"""Causal attention over heads whose values may be narrower than their queries and keys."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def causal_attention(
    query: Float[Tensor, "batch heads queries d_qk"],
    key: Float[Tensor, "batch heads keys d_qk"],
    value: Float[Tensor, "batch heads keys d_v"],
    scale: float,
) -> Float[Tensor, "batch heads queries d_v"]:
    """softmax(scale · q kᵀ + mask) v, where a query sees its own position and those before.

    The queries are the last positions of the keys, so the same call serves training (as many
    queries as keys) and decoding with a cache (fewer).

    torch's flash kernels want queries, keys and values of one width. MLA's values are narrower, so
    they are padded with zeros, which costs some multiplications and saves the [queries, keys] matrix.
    """
    queries, keys = query.shape[-2], key.shape[-2]
    d_qk, d_v = query.shape[-1], value.shape[-1]
    if d_v < d_qk:
        value = F.pad(value, (0, d_qk - d_v))
    elif d_v > d_qk:
        query, key = F.pad(query, (0, d_v - d_qk)), F.pad(key, (0, d_v - d_qk))
    if queries == keys or queries == 1:
        mixed = F.scaled_dot_product_attention(
            query, key, value, is_causal=queries > 1, scale=scale
        )
    else:
        sees = torch.ones(queries, keys, dtype=torch.bool, device=query.device)
        sees = sees.tril(diagonal=keys - queries)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=sees, scale=scale)
    return mixed[..., :d_v]
