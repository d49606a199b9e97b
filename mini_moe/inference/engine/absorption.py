"""Attention on latents without rebuilding keys and values: when it pays off, and its matrices.

Per head, score = (W_UK c)ᵀ q = cᵀ (W_UKᵀ q) and output = W_O W_UV Σ p c. So W_UK can be moved to
the query and W_UV to the output; keys and values are then the cached latents themselves, shared by
all heads. RoPE does not get in the way, because only the separate rope part is rotated.
Source: DeepSeek-V2, arXiv 2405.04434 §2.1.2–2.1.3.
"""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from mini_moe.config import ModelConfig
from mini_moe.model.attention import MultiHeadLatentAttention


def naive_flops(config: ModelConfig, new: int, keys: int) -> int:
    """FLOPs (2 per multiply-add) of one layer's heads if keys and values are rebuilt from latents.

    With l = kv_lora_rank; n, r, v = widths of nope, rope and value; d = d_model; e = width of the
    queries' input (q_lora_rank or d_model):
    2 · heads · [keys · l (n + v) + new · keys · (n + r + v) + new · (e (n + r) + d v)]
    """
    e, d, n, r, v = _widths(config)
    rebuilt = keys * config.kv_lora_rank * (n + v)
    attention = new * keys * (n + r + v)
    return 2 * config.n_heads * (rebuilt + attention + new * (e * (n + r) + d * v))


def absorbed_flops(config: ModelConfig, new: int, keys: int) -> int:
    """FLOPs of one layer's heads if they attend to the latents, with W_UK and W_UV absorbed.

    2 · heads · [new · keys · (2 l + r) + new · (e (l + r) + d l)]
    """
    e, d, _, r, _ = _widths(config)
    rank = config.kv_lora_rank
    attention = new * keys * (2 * rank + r)
    return 2 * config.n_heads * (attention + new * (e * (rank + r) + d * rank))


def absorbed_is_cheaper(config: ModelConfig, new: int, keys: int) -> bool:
    """Whether `new` tokens per sequence, attending to `keys` positions, should be read absorbed.

    Rebuilding costs keys · l (n + v) once, whatever the number of new tokens; absorbing costs more
    for each of them. They cost the same at
        new* = keys · l (n + v) / [keys · (2l − n − v) + e (l − n) + d (l − v)]
    which approaches l (n + v) / (2l − n − v) for long contexts: 64 tokens for `presets.tiny()`, 171
    for DeepSeek-V3. Bytes don't change the choice: both read keys · (l + r) numbers of cache, and
    rebuilding writes and reads another keys · heads · (n + r + v), so below new* absorbing saves
    both FLOPs and bytes.
    """
    return absorbed_flops(config, new, keys) <= naive_flops(config, new, keys)


def crossover(config: ModelConfig, keys: int) -> float:
    """Return new*, below which absorbing costs fewer FLOPs; infinite if it always does."""
    e, d, n, _, v = _widths(config)
    rank = config.kv_lora_rank
    per_token = keys * (2 * rank - n - v) + e * (rank - n) + d * (rank - v)
    return keys * rank * (n + v) / per_token if per_token > 0 else float("inf")


def _widths(config: ModelConfig) -> tuple[int, int, int, int, int]:
    e = config.q_lora_rank or config.d_model
    nope, rope, value = config.qk_nope_head_dim, config.qk_rope_head_dim, config.v_head_dim
    return e, config.d_model, nope, rope, value


def absorbed_query(attention: MultiHeadLatentAttention) -> Float[Tensor, "out in"]:
    """Return each head's [W_UKᵀ W_nope ; W_rope] times the softmax scale: out = heads · (l + r)."""
    config = attention.config
    made_by = attention.q_proj if config.q_lora_rank is None else attention.q_b_proj
    weight = rearrange(_wide(made_by.weight), "(h d) e -> h d e", h=config.n_heads)
    nope, rope = weight.split([config.qk_nope_head_dim, config.qk_rope_head_dim], dim=1)
    on_latents = _up(attention)[0].transpose(1, 2) @ nope
    return torch.cat((on_latents, rope), dim=1).flatten(0, 1) * attention.scale


def absorbed_output(attention: MultiHeadLatentAttention) -> Float[Tensor, "d_model in"]:
    """Return W_O W_UV of each head, which maps all heads' mixed latents to the layer's output."""
    weight = rearrange(
        _wide(attention.o_proj.weight), "d (h v) -> h d v", h=attention.config.n_heads
    )
    return rearrange(weight @ _up(attention)[1], "h d l -> d (h l)")


def _up(attention: MultiHeadLatentAttention) -> tuple[Tensor, Tensor]:
    """Return W_UK [heads, nope, latent] and W_UV [heads, value, latent]."""
    config = attention.config
    both = rearrange(_wide(attention.kv_b_proj.weight), "(h d) l -> h d l", h=config.n_heads)
    return both.split([config.qk_nope_head_dim, config.v_head_dim], dim=1)


def _wide(weight: Tensor) -> Tensor:
    return weight.detach().to(torch.promote_types(weight.dtype, torch.float32))
