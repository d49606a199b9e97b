"""Attention with a cache, in two forms: on the latents, or on keys and values rebuilt from them."""

from functools import cached_property

import torch
from torch import Tensor

from mini_moe.inference.cache import LatentCache
from mini_moe.inference.engine.absorption import absorbed_output, absorbed_query
from mini_moe.inference.engine.layers import Product, norm_of
from mini_moe.model.attention import MultiHeadLatentAttention
from mini_moe.model.layers import RMSNorm
from mini_moe.ops import latent_attention


class Place:
    """The positions of a pass: what every layer needs to know about them, computed once."""

    def __init__(self, cache: LatentCache, new: int, rotation: Tensor, absorbed: bool) -> None:
        starts, batch = cache.lengths, cache.batch
        self.batch, self.new, self.absorbed = batch, new, absorbed
        end = max(starts) + new
        held = cache.numbers[:, :batch, :end]
        self.held, self.hidden_from = held, None
        self.even = min(starts) == max(starts)
        if absorbed:
            self.keys = held.transpose(-1, -2).unbind(0)
            self.values = held[..., : cache.model.config.kv_lora_rank].unbind(0)
        if self.even:
            self.rotation = rotation[None, starts[0] : end, None]
            slots, rank = held[:, :, starts[0] :], cache.model.config.kv_lora_rank
            self.latents, self.rope_keys = slots[..., :rank].unbind(0), slots[..., rank:].unbind(0)
            if new == 1 or not absorbed:
                return
        positions = torch.tensor(starts, device=held.device)[:, None]
        positions = positions + torch.arange(new, device=held.device)
        if not self.even:
            self.rotation = rotation[positions][:, :, None]
            sequences = torch.arange(batch, device=held.device)[:, None]
            self.slots, self.index = cache.numbers.unbind(0), (sequences, positions)
        after = torch.arange(end, device=held.device) > positions[..., None]
        self.hidden_from = after[:, :, None]  # [batch, new, 1, keys]

    def write(self, number: int, latent: Tensor, key_rope: Tensor) -> None:
        """Write a layer's latents [batch · new, l] and rope keys [batch, new, r] to the cache."""
        latent = latent.view(self.batch, self.new, -1)
        if self.even:
            self.latents[number].copy_(latent)
            self.rope_keys[number].copy_(key_rope)
        else:
            kept = torch.cat((latent, key_rope), dim=-1)
            self.slots[number].index_put_(self.index, kept)


class AttentionStep:
    """One layer's attention, added to the residual; `place.absorbed` selects the form.

    Absorbed: one product gives every head's query on the latents and the new cache entries; heads
    attend to the latents directly; one product maps back to d_model. These matrices are built on
    first use and kept. Rebuilt: the same computation as `MultiHeadLatentAttention`.
    """

    def __init__(self, attention: MultiHeadLatentAttention, norm: RMSNorm) -> None:
        self.attention, config = attention, attention.config
        self.config, self.rank = config, config.kv_lora_rank
        self.width = config.kv_lora_rank + config.qk_rope_head_dim
        self.norm, self.latent_norm = norm_of(norm), norm_of(attention.kv_a_layernorm)
        self.keep = Product(attention.kv_a_proj_with_mqa.weight)
        self.up, self.out = Product(attention.kv_b_proj.weight), Product(attention.o_proj.weight)
        if config.q_lora_rank is None:
            self.shrink, self.query = None, Product(attention.q_proj.weight)
        else:
            self.shrink, self.query = map(
                Product, (attention.q_a_proj.weight, attention.q_b_proj.weight)
            )
            self.query_norm = norm_of(attention.q_a_layernorm)

    @cached_property
    def first(self) -> Product:
        """First product: input to queries (compressed ones if q_lora_rank is set) and [l | r]."""
        query = self.absorbed_query if self.shrink is None else self.shrink.weight
        return Product(torch.cat((query, self.keep.weight)))

    @cached_property
    def second(self) -> Product:
        """Second product, only with q_lora_rank: compressed queries to queries on latents."""
        return Product(self.absorbed_query)

    @cached_property
    def absorbed_out(self) -> Product:
        """Last product: all heads' mixed latents to the layer's output."""
        return Product(absorbed_output(self.attention).to(self.out.weight.dtype))

    @property
    def absorbed_query(self) -> Tensor:
        """The absorbed query matrix, rounded once, from fp32."""
        return absorbed_query(self.attention).to(self.out.weight.dtype)

    def __call__(self, x: Tensor, place: Place, number: int) -> Tensor:
        normed = self.norm(x)
        return (self.absorbed if place.absorbed else self.rebuilt)(x, normed, place, number)

    def absorbed(self, x: Tensor, normed: Tensor, place: Place, number: int) -> Tensor:
        """Attend to the cached latents directly."""
        batch, new, heads = place.batch, place.new, self.config.n_heads
        made = self.first(normed)
        if self.shrink is not None:
            small, kept = made.split([made.shape[-1] - self.width, self.width], dim=-1)
            made = torch.cat((self.second(self.query_norm(small.contiguous())), kept), dim=-1)
        latent = self.latent_norm(made[:, heads * self.width : -(self.width - self.rank)])
        made = made.view(batch, new, heads + 1, self.width)
        turn(made, self.rank, place.rotation)
        place.write(number, latent, made[:, :, heads, self.rank :])
        query = made[:, :, :heads].reshape(batch, new * heads, self.width)
        scores = torch.bmm(query, place.keys[number])
        if place.hidden_from is not None:
            scores.view(batch, new, heads, -1).masked_fill_(place.hidden_from, -torch.inf)
        mixed = torch.bmm(scores.softmax(dim=-1), place.values[number])
        return x + self.absorbed_out(mixed.view(batch * new, heads * self.rank))

    def rebuilt(self, x: Tensor, normed: Tensor, place: Place, number: int) -> Tensor:
        """Attend to keys and values rebuilt from the cached latents; needs equal lengths."""
        batch, new, heads = place.batch, place.new, self.config.n_heads
        small = normed if self.shrink is None else self.query_norm(self.shrink(normed))
        query = self.query(small).view(batch, new, heads, self.config.qk_head_dim)
        turn(query, self.config.qk_nope_head_dim, place.rotation)
        kept = self.keep(normed)
        latent, kept = self.latent_norm(kept[:, : self.rank]), kept.view(batch, new, 1, self.width)
        turn(kept, self.rank, place.rotation)
        place.write(number, latent, kept[:, :, 0, self.rank :])
        latent, key_rope = place.held[number].split([self.rank, self.width - self.rank], dim=-1)
        made = self.up(latent.reshape(-1, self.rank)).view(batch, latent.shape[1], heads, -1)
        mixed = latent_attention(query, made, key_rope, self.attention.scale)
        return x + self.out(mixed.reshape(batch * new, heads * self.config.v_head_dim))


def turn(made: Tensor, first: int, rotation: Tensor) -> None:
    """Apply RoPE in place to channels `first` and up of [batch, new, heads, width].

    Each pair of neighbouring channels is a complex number, and rotating it is a multiplication.
    """
    if first % 2 == 0 and made.dtype == rotation.real.dtype:
        pairs = torch.view_as_complex(made.view(*made.shape[:-1], made.shape[-1] // 2, 2))
        pairs[..., first // 2 :].mul_(rotation)
        return
    pairs = made[..., first:].unflatten(-1, (-1, 2))
    wide = pairs.to(rotation.real.dtype).clone(memory_format=torch.contiguous_format)
    turned = torch.view_as_complex(wide) * rotation
    pairs.copy_(torch.view_as_real(turned))
