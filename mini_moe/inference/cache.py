"""What multi-head latent attention remembers of earlier tokens."""

import torch
from jaxtyping import Float
from torch import Tensor

from mini_moe.arguments import whole
from mini_moe.config import ModelConfig
from mini_moe.model import Transformer


class KeyValueCache:
    """The normalised latent and the rotated shared key of every token so far, in every layer.

    That is kv_lora_rank + qk_rope_head_dim numbers per token and layer, whatever the number of
    heads. This is the idea in its simplest form: it grows, and copies itself, with each token. The
    engine writes into a `LatentCache` instead.
    Source: DeepSeek-V3, arXiv 2412.19437 §2.1.1 (the boxed vectors of equations 1 and 3).
    """

    def __init__(self) -> None:
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    def __len__(self) -> int:
        """Number of tokens that every layer holds."""
        return min((latent.shape[1] for latent, _ in self._layers.values()), default=0)

    def append(
        self, layer: int, latent: Tensor, key_rope: Tensor
    ) -> tuple[Float[Tensor, "batch keys kv_lora_rank"], Float[Tensor, "batch keys d_rope"]]:
        """Add new positions to a layer and return all of its positions so far."""
        if layer in self._layers:
            before = self._layers[layer]
            latent = torch.cat((before[0], latent), dim=1)
            key_rope = torch.cat((before[1], key_rope), dim=1)
        self._layers[layer] = latent, key_rope
        return latent, key_rope

    @property
    def n_bytes(self) -> int:
        """Number of bytes the cache holds."""
        return sum(t.nbytes for pair in self._layers.values() for t in pair)


class LatentCache:
    """A cache in one block of memory, allocated once, for sequences of different lengths.

    `numbers` is [layers, batch, capacity, kv_lora_rank + qk_rope_head_dim]. The first `lengths[b]`
    positions of sequence b are filled; anything after them has no effect. A length grows only once
    every layer has the new positions, so an interrupted pass leaves it unchanged.

    Raises: ValueError for fewer than one sequence or layer, or a capacity outside
    [1, max_seq_len].
    """

    def __init__(
        self,
        model: Transformer,
        batch: int = 1,
        capacity: int | None = None,
        n_layers: int | None = None,
    ) -> None:
        config, weight = model.config, model.embed_tokens.weight
        batch = whole("batch", batch, 1)
        capacity = config.max_seq_len if capacity is None else capacity
        self.capacity = whole("capacity", capacity, 1, config.max_seq_len)
        self.model = model
        self.n_layers = config.n_layers if n_layers is None else whole("n_layers", n_layers, 1)
        width = config.kv_lora_rank + config.qk_rope_head_dim
        self.numbers = weight.detach().new_zeros(self.n_layers, batch, self.capacity, width)
        self.lengths = [0] * batch

    def __len__(self) -> int:
        """Number of tokens that every sequence has."""
        return min(self.lengths)

    @property
    def batch(self) -> int:
        """Number of sequences."""
        return len(self.lengths)

    @property
    def n_bytes(self) -> int:
        """Number of bytes allocated: `kv_bytes_per_token` · batch · capacity."""
        return self.numbers.nbytes

    def check_room(self, batch: int, new: int) -> None:
        """Raise ValueError unless `new` positions fit into each of `batch` sequences."""
        if batch != self.batch:
            raise ValueError(f"cache: a batch of {self.batch} sequences expected, got {batch}")
        if max(self.lengths) + new > self.capacity:
            raise ValueError(
                f"cache: at most capacity={self.capacity} positions expected, got "
                f"{max(self.lengths)} + {new}"
            )

    def append(
        self, layer: int, latent: Tensor, key_rope: Tensor
    ) -> tuple[Float[Tensor, "batch keys kv_lora_rank"], Float[Tensor, "batch keys d_rope"]]:
        """Write a layer's new positions, equally many per sequence, and return all positions.

        Raises: ValueError if sequences differ in length, or the cache is another model's or full.
        """
        batch, new, rank = latent.shape
        start = self.lengths[0]
        self.check_room(batch, new)
        if any(length != start for length in self.lengths):
            raise ValueError(
                f"cache: sequences of equal length expected, got {self.lengths}; use Decoder"
            )
        width = rank + key_rope.shape[-1]
        if not 0 <= layer < self.n_layers or width != self.numbers.shape[-1]:
            raise ValueError(
                f"cache: one of {self.n_layers} layers with {self.numbers.shape[-1]} numbers per "
                f"token expected, got layer {layer} with {width}"
            )
        held = self.numbers[layer, :batch, : start + new]
        held[:, start:, :rank] = latent
        held[:, start:, rank:] = key_rope
        if layer == self.n_layers - 1:
            self.lengths = [start + new] * batch
        return held[..., :rank], held[..., rank:]

    def drop(self, row: int) -> None:
        """Drop sequence `row`; the last sequence takes its place."""
        last = self.batch - 1
        if row != last:
            length = self.lengths[last]
            self.numbers[:, row, :length] = self.numbers[:, last, :length]
            self.lengths[row] = length
        self.lengths.pop()


def kv_bytes_per_token(config: ModelConfig, bytes_per_number: int = 2) -> int:
    """Cache bytes per token: layers · (kv_lora_rank + qk_rope_head_dim) · bytes per number.

    70,272 for DeepSeek-V3 in bfloat16; plain multi-head attention would keep 3,997,696.
    Source: DeepSeek-V2, arXiv 2405.04434 table 1.
    """
    per_number = whole("bytes_per_number", bytes_per_number, 1)
    return config.n_layers * (config.kv_lora_rank + config.qk_rope_head_dim) * per_number
