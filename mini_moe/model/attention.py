"""Multi-head latent attention: keys and values are rebuilt from one small cached latent."""

from typing import Protocol, runtime_checkable

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn

from mini_moe.config import ModelConfig
from mini_moe.model.layers import RMSNorm
from mini_moe.model.rope import apply_rope, softmax_scale
from mini_moe.ops import causal_attention


@runtime_checkable
class LatentCache(Protocol):
    """What the model needs of a cache: its length, and to append a layer's new positions."""

    def __len__(self) -> int: ...

    def append(
        self, layer: int, latent: Tensor, key_rope: Tensor
    ) -> tuple[Float[Tensor, "batch keys kv_lora_rank"], Float[Tensor, "batch keys d_rope"]]: ...


class MultiHeadLatentAttention(nn.Module):
    """Causal self-attention whose cache is kv_lora_rank + qk_rope_head_dim numbers a token.

    1. query: x, or its compression normalised, projected to heads of [nope | rope]
    2. latent: x projected to [kv_lora_rank | rope]; the first part normalised
    3. keys and values: the latent projected to heads of [nope | value]
    4. RoPE turns the rope parts; one rotated key is shared by all heads
    5. softmax attention over [nope | rope], then the output projection

    Source: DeepSeek-V3, arXiv 2412.19437 §2.1.1, equations 1–11.
    """

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.config, self.layer = config, layer
        self.scale = softmax_scale(config)
        heads, latent = config.n_heads, config.kv_lora_rank
        if config.q_lora_rank is None:
            self.q_proj = nn.Linear(config.d_model, heads * config.qk_head_dim, bias=False)
        else:
            self.q_a_proj = nn.Linear(config.d_model, config.q_lora_rank, bias=False)
            self.q_a_layernorm = RMSNorm(config.q_lora_rank, config.latent_norm_eps)
            self.q_b_proj = nn.Linear(config.q_lora_rank, heads * config.qk_head_dim, bias=False)
        self.kv_a_proj_with_mqa = nn.Linear(
            config.d_model, latent + config.qk_rope_head_dim, bias=False
        )
        self.kv_a_layernorm = RMSNorm(latent, config.latent_norm_eps)
        self.kv_b_proj = nn.Linear(
            latent, heads * (config.qk_nope_head_dim + config.v_head_dim), bias=False
        )
        self.o_proj = nn.Linear(heads * config.v_head_dim, config.d_model, bias=False)

    def forward(
        self,
        x: Float[Tensor, "batch seq d_model"],
        rotation: Float[Tensor, "seq pairs 2"],
        cache: LatentCache | None = None,
    ) -> Float[Tensor, "batch seq d_model"]:
        query = self.query(x, rotation)
        latent, key_rope = self.compress(x, rotation)
        if cache is not None:
            latent, key_rope = cache.append(self.layer, latent, key_rope)
        key, value = self.expand(latent, key_rope)
        mixed = causal_attention(query, key, value, self.scale)
        return self.o_proj(rearrange(mixed, "batch heads seq d -> batch seq (heads d)"))

    def query(self, x: Tensor, rotation: Tensor) -> Float[Tensor, "batch heads seq d_qk"]:
        """Queries of all heads, the last qk_rope_head_dim channels rotated."""
        if self.config.q_lora_rank is None:
            query = self.q_proj(x)
        else:
            query = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x)))
        query = rearrange(
            query, "batch seq (heads d) -> batch heads seq d", heads=self.config.n_heads
        )
        nope, rope = query.split(
            [self.config.qk_nope_head_dim, self.config.qk_rope_head_dim], dim=-1
        )
        return torch.cat((nope, apply_rope(rope, rotation)), dim=-1)

    def compress(self, x: Tensor, rotation: Tensor) -> tuple[Tensor, Tensor]:
        """What a cache holds: the normalised latent and the rotated key shared by all heads."""
        latent, key_rope = self.kv_a_proj_with_mqa(x).split(
            [self.config.kv_lora_rank, self.config.qk_rope_head_dim], dim=-1
        )
        return self.kv_a_layernorm(latent), apply_rope(key_rope, rotation)

    def expand(self, latent: Tensor, key_rope: Tensor) -> tuple[Tensor, Tensor]:
        """Keys [batch heads keys d_qk] and values [batch heads keys d_v] from the latent."""
        heads = rearrange(
            self.kv_b_proj(latent),
            "batch keys (heads d) -> batch heads keys d",
            heads=self.config.n_heads,
        )
        nope, value = heads.split([self.config.qk_nope_head_dim, self.config.v_head_dim], dim=-1)
        shared = repeat(
            key_rope.to(nope.dtype), "batch keys d -> batch heads keys d", heads=self.config.n_heads
        )
        return torch.cat((nope, shared), dim=-1), value
