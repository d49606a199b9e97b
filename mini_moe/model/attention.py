"""Multi-head latent attention: keys and values are rebuilt from one small cached latent."""

from typing import Protocol, runtime_checkable

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from mini_moe.config import ModelConfig
from mini_moe.model.layers import Linear, RMSNorm
from mini_moe.model.rope import softmax_scale
from mini_moe.ops import latent_attention, rotate
from mini_moe.ops.reference import keys_and_values


@runtime_checkable
class Cache(Protocol):
    """What the model needs from a cache: a length, and a way to append a layer's new positions."""

    def __len__(self) -> int: ...

    def append(
        self, layer: int, latent: Tensor, key_rope: Tensor
    ) -> tuple[Float[Tensor, "batch keys kv_lora_rank"], Float[Tensor, "batch keys d_rope"]]: ...


class MultiHeadLatentAttention(nn.Module):
    """Causal self-attention whose cache is kv_lora_rank + qk_rope_head_dim numbers per token.

    1. query: x, or its normalised compression, projected to heads of [nope | rope]
    2. latent: x projected to [kv_lora_rank | rope], the first part normalised
    3. keys and values: the latent projected to heads of [nope | value]
    4. RoPE rotates the rope parts; one rotated key is shared by all heads
    5. softmax attention over [nope | rope], then the output projection

    Source: DeepSeek-V3, arXiv 2412.19437 §2.1.1, equations 1–11.
    """

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.config, self.layer = config, layer
        self.scale = softmax_scale(config)
        heads, latent = config.n_heads, config.kv_lora_rank
        if config.q_lora_rank is None:
            self.q_proj = Linear(config.d_model, heads * config.qk_head_dim)
        else:
            self.q_a_proj = Linear(config.d_model, config.q_lora_rank)
            self.q_a_layernorm = RMSNorm(config.q_lora_rank, config.latent_norm_eps)
            self.q_b_proj = Linear(config.q_lora_rank, heads * config.qk_head_dim)
        self.kv_a_proj_with_mqa = Linear(config.d_model, latent + config.qk_rope_head_dim)
        self.kv_a_layernorm = RMSNorm(latent, config.latent_norm_eps)
        self.kv_b_proj = Linear(latent, heads * (config.qk_nope_head_dim + config.v_head_dim))
        self.o_proj = Linear(heads * config.v_head_dim, config.d_model)

    def forward(
        self,
        x: Float[Tensor, "batch seq d_model"],
        rotation: Float[Tensor, "seq pairs 2"],
        cache: Cache | None = None,
    ) -> Float[Tensor, "batch seq d_model"]:
        query = self.query(x, rotation)
        latent, key_rope = self.compress(x, rotation)
        if cache is not None:
            latent, key_rope = cache.append(self.layer, latent, key_rope)
        mixed = latent_attention(query, self.heads(latent), key_rope, self.scale)
        return self.o_proj(rearrange(mixed, "batch seq heads d -> batch seq (heads d)"))

    def query(self, x: Tensor, rotation: Tensor) -> Float[Tensor, "batch seq heads d_qk"]:
        """Return the queries of all heads, with the last qk_rope_head_dim channels rotated."""
        if self.config.q_lora_rank is None:
            query = self.q_proj(x)
        else:
            query = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x)))
        heads = "batch seq (heads d) -> batch seq heads d"
        return rotate(rearrange(query, heads, heads=self.config.n_heads), rotation)

    def compress(self, x: Tensor, rotation: Tensor) -> tuple[Tensor, Tensor]:
        """Return what a cache holds: the normalised latent and the rotated key all heads share."""
        latent, key_rope = self.kv_a_proj_with_mqa(x).split(
            [self.config.kv_lora_rank, self.config.qk_rope_head_dim], dim=-1
        )
        key_rope = rearrange(key_rope, "batch seq d -> batch seq 1 d")
        return self.kv_a_layernorm(latent), rotate(key_rope, rotation).squeeze(2)

    def heads(self, latent: Tensor) -> Float[Tensor, "batch keys heads d_nope_and_v"]:
        """Project the latent to each head's key without its rope part, followed by its value."""
        return rearrange(
            self.kv_b_proj(latent),
            "batch keys (heads d) -> batch keys heads d",
            heads=self.config.n_heads,
        )

    def expand(self, latent: Tensor, key_rope: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys [batch heads keys d_qk] and values [batch heads keys d_v] from the latent."""
        heads = self.heads(latent)
        return keys_and_values(heads, key_rope.to(heads.dtype), self.config.qk_head_dim)
