"""`mini_moe::latent_attention`: attention with keys and values projected from a latent."""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from mini_moe.ops import compiled
from mini_moe.ops.attention import causal_attention
from mini_moe.ops.compiled import serves
from mini_moe.ops.context import autocast_dtype
from mini_moe.ops.reference import keys_and_values
from mini_moe.ops.registration import register


def latent_attention(
    query: Float[Tensor, "batch queries heads d_qk"],
    kv: Float[Tensor, "batch keys heads d_nope_and_v"],
    key_rope: Float[Tensor, "batch keys d_rope"],
    scale: float,
) -> Float[Tensor, "batch queries heads d_v"]:
    """Causal attention with keys [nope | rope]; `kv` holds each head's nope part, then its value.

    All heads share the rope part of a key. The compiled kernel never assembles the keys in memory
    and keeps no attention weights for the backward pass; its gradients can't be differentiated
    again. Under autocast, everything runs in its dtype.

    Raises: ValueError if shapes don't match or there are more queries than keys.
    """
    if dtype := autocast_dtype(query):
        query, kv, key_rope = query.to(dtype), kv.to(dtype), key_rope.to(dtype)
    if serves(query, kv, key_rope):
        with compiled.named_errors():
            return torch.ops.mini_moe.latent_attention(query, kv, key_rope, scale)[0]
    key, value = keys_and_values(kv, key_rope.to(kv.dtype), query.shape[-1])
    heads_first = rearrange(query, "batch queries heads d -> batch heads queries d")
    mixed = causal_attention(heads_first, key, value, scale)
    return rearrange(mixed, "batch heads queries d -> batch queries heads d")


def _forward(query, kv, key_rope, scale):
    batch, queries, heads, d_qk = query.shape
    d_v = kv.shape[-1] - d_qk + key_rope.shape[-1]
    row_sums = query.new_empty(batch, heads, queries, 2, dtype=torch.float32)
    return query.new_empty(batch, queries, heads, d_v), row_sums


def _backward(grad, query, kv, key_rope, row_sums, scale):
    return tuple(t.new_empty(t.shape) for t in (query, kv, key_rope))


def _save(ctx, inputs, output) -> None:
    *tensors, ctx.scale = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)  # no zeros for the second output
    ctx.save_for_backward(*tensors, output[1])


def _differentiate(ctx, grad, _grad_row_sums):
    backward = torch.ops.mini_moe.latent_attention_backward
    return *backward(grad, *ctx.saved_tensors, ctx.scale), None


register("latent_attention", _forward, _backward, _differentiate, _save)
