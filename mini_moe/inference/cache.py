"""What multi-head latent attention remembers of the tokens before."""

import torch
from jaxtyping import Float
from torch import Tensor

from mini_moe.config import ModelConfig


class KeyValueCache:
    """Per layer, the normalised latent and the rotated shared key of every token so far.

    kv_lora_rank + qk_rope_head_dim numbers a token and layer, whatever the number of heads.
    Source: DeepSeek-V3, arXiv 2412.19437 §2.1.1 (the boxed vectors of equations 1 and 3).
    """

    def __init__(self) -> None:
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    def __len__(self) -> int:
        """Tokens that every layer holds."""
        return min((latent.shape[1] for latent, _ in self._layers.values()), default=0)

    def append(
        self, layer: int, latent: Tensor, key_rope: Tensor
    ) -> tuple[Float[Tensor, "batch keys kv_lora_rank"], Float[Tensor, "batch keys d_rope"]]:
        """Add new positions of a layer; all of its positions so far."""
        if layer in self._layers:
            before = self._layers[layer]
            latent = torch.cat((before[0], latent), dim=1)
            key_rope = torch.cat((before[1], key_rope), dim=1)
        self._layers[layer] = latent, key_rope
        return latent, key_rope

    @property
    def n_bytes(self) -> int:
        """Bytes the cache holds."""
        return sum(t.nbytes for pair in self._layers.values() for t in pair)


def kv_bytes_per_token(config: ModelConfig, bytes_per_number: int = 2) -> int:
    """Bytes of cache a token: layers · (kv_lora_rank + qk_rope_head_dim) · bytes a number.

    70,272 for DeepSeek-V3 in bfloat16, where plain multi-head attention would keep 3,997,696.
    Source: DeepSeek-V2, arXiv 2405.04434 table 1.
    """
    return config.n_layers * (config.kv_lora_rank + config.qk_rope_head_dim) * bytes_per_number
