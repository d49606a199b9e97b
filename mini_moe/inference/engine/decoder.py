"""The model laid out for reading a few tokens at a time: few operations, nothing recomputed.

A pass over one token does little arithmetic, so its cost is reading weights and calling operations.
Here each layer's attention projections are one matrix product in and one out, rotations come from
a precomputed table, and the cache is written in place.
"""

from collections.abc import Iterable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mini_moe.inference.cache import LatentCache
from mini_moe.inference.engine.absorption import absorbed_is_cheaper
from mini_moe.inference.engine.attention import AttentionStep, Place
from mini_moe.inference.engine.fused import FusedLayers
from mini_moe.inference.engine.layers import (
    MixtureStep,
    Product,
    SwiGLUStep,
    at_least_fp32,
    norm_of,
)
from mini_moe.model import Transformer
from mini_moe.model.layers import RMSNorm
from mini_moe.model.rope import rope_rotation
from mini_moe.model.transformer import Block

CHUNK = 256  # at most this many tokens of each prompt are read at once


class Decoder:
    """Reads tokens into a `LatentCache` and returns the vectors that the head turns into logits.

    It keeps the absorbed matrices of each layer, heads · (l + r) · e + heads · l · d numbers, and
    a few concatenated ones, so if weights or routers change later, make a new Decoder. The experts,
    the embedding and the head share the model's memory. Module hooks aren't called.
    """

    @torch.inference_mode()
    def __init__(self, model: Transformer) -> None:
        self.model, self.config = model, model.config
        self.embedding = model.embed_tokens.weight.detach()
        self.head = Product(model.lm_head.weight, wide=True)
        self.wide = at_least_fp32(self.embedding.dtype)  # of everything between layers
        rotation = rope_rotation(self.config, 0, self.config.max_seq_len, self.embedding.device).to(
            self.wide
        )
        self.rotation = torch.view_as_complex(rotation.contiguous())
        self.stack = Stack(model.layers, model.norm, self.rotation)

    @torch.inference_mode()
    def read(
        self, tokens: Int[Tensor, "batch new"], cache: LatentCache
    ) -> Float[Tensor, "batch new d_model"]:
        """Read `new` more tokens per sequence, absorbed if that is cheaper or lengths differ.

        Raises: ValueError if the cache is full, another model's, or has another batch size or
        dtype, or if there are no tokens or an id is out of range.
        """
        if torch.is_autocast_enabled(tokens.device.type):  # it would round every weight again
            with torch.autocast(tokens.device.type, enabled=False):
                return self.read(tokens, cache)
        batch, new = tokens.shape
        self.check(batch, new, cache)
        try:
            embedded = torch.embedding(self.embedding, tokens)
        except IndexError:
            self.model.check_tokens(tokens, 0)  # its error names the id
            raise
        return self.run(self.stack, embedded, cache, self.absorbs(new, cache.lengths))

    def absorbs(self, new: int, lengths: list[int]) -> bool:
        """Whether `new` more tokens per sequence should attend to the latents directly."""
        if self.stack.fused.takes(new * len(lengths)):
            return True
        even = min(lengths) == max(lengths)
        return not even or absorbed_is_cheaper(self.config, new, lengths[0] + new)

    def check(self, batch: int, new: int, cache: LatentCache) -> None:
        """Raise ValueError unless the cache belongs to this model, has its dtype and has room."""
        if cache.model is not self.model:
            raise ValueError("cache: one made for this Decoder's model expected, got another's")
        if cache.numbers.dtype != self.embedding.dtype:
            raise ValueError(
                f"cache: {self.embedding.dtype} expected, the weights' dtype when this Decoder was "
                f"made, got {cache.numbers.dtype}"
            )
        cache.check_room(batch, new)
        if not new:
            raise ValueError("tokens: at least one per sequence expected, got none")

    @torch.inference_mode()
    def prefill(
        self, prompts: list[list[int]], cache: LatentCache
    ) -> Float[Tensor, "batch d_model"]:
        """Read prompts of any lengths into an empty cache; return the vector at each last token.

        Shorter prompts are right-padded while a chunk is read. No token sees later tokens, and
        the next token overwrites the padding, so it has no effect.

        Raises: ValueError for ids out of range, an empty prompt, or a cache that does not fit.
        """
        lengths = [len(prompt) for prompt in prompts]
        self.check(len(prompts), max(lengths, default=0), cache)
        if any(cache.lengths) or not min(lengths):
            raise ValueError(f"prompts: at least 1 token, empty cache expected, got {lengths}")
        padded = [prompt + [prompt[-1]] * (max(lengths) - len(prompt)) for prompt in prompts]
        tokens = self.as_tokens(padded)
        self.model.check_tokens(tokens, 0)
        last = tokens.new_tensor(lengths) - 1
        found = self.embedding.new_empty(len(prompts), self.config.d_model, dtype=self.wide)
        for start in range(0, max(lengths), CHUNK):
            hidden = self.read(tokens[:, start : start + CHUNK], cache)
            ended = ((last >= start) & (last < start + hidden.shape[1])).nonzero()[:, 0]
            found[ended] = hidden[ended, last[ended] - start]
        cache.lengths = lengths
        return found

    @torch.inference_mode()
    def read_all(self, tokens: list[int], cache: LatentCache) -> Float[Tensor, "1 new d_model"]:
        """Read one prompt in chunks; return the vectors at all of its tokens."""
        whole = self.as_tokens([tokens])
        self.model.check_tokens(whole, 0)
        return torch.cat([self.read(part, cache) for part in whole.split(CHUNK, dim=1)], dim=1)

    def as_tokens(self, ids: list[list[int]]) -> Int[Tensor, "batch new"]:
        """Return token ids as a tensor on the model's device."""
        return torch.tensor(ids, device=self.embedding.device)

    @torch.inference_mode()
    def logits(self, hidden: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch vocab"]:
        """Apply the head to vectors returned by `read`."""
        if torch.is_autocast_enabled(hidden.device.type):
            with torch.autocast(hidden.device.type, enabled=False):
                return self.logits(hidden)
        return self.head(hidden.reshape(-1, hidden.shape[-1])).view(*hidden.shape[:-1], -1)

    def run(self, stack: "Stack", x: Tensor, cache: LatentCache, absorbed: bool = True) -> Tensor:
        """Run a stack on embedded tokens [batch, new, d_model]; norm the result, grow the cache."""
        batch, new, _ = x.shape
        if absorbed and stack.fused.takes(batch * new):
            y = stack.fused(x, cache)
        else:
            place = Place(cache, new, self.rotation, absorbed)
            y = stack(x.flatten(0, 1).to(self.wide), place).view(batch, new, -1)
        cache.lengths = [length + new for length in cache.lengths]
        return y


class Stack:
    """Layers and the norm after them; `fused` does the same in one call for a few tokens."""

    def __init__(self, blocks: Iterable[Block], norm: RMSNorm, rotation: Tensor) -> None:
        blocks = list(blocks)
        self.layers, self.norm = [LayerStep(block) for block in blocks], norm_of(norm, wide=True)
        self.fused = FusedLayers(blocks, norm, rotation)

    def __call__(self, x: Tensor, place: Place) -> Tensor:
        for number, layer in enumerate(self.layers):
            x = layer(x, place, number)
        return self.norm(x)


class LayerStep:
    """One block: attention, then experts or a feed-forward network."""

    def __init__(self, block: Block) -> None:
        self.attention = AttentionStep(block.self_attn, block.input_layernorm)
        self.norm = norm_of(block.post_attention_layernorm)
        self.mixture = MixtureStep(block.mlp) if block.is_moe else SwiGLUStep(block.mlp)

    def __call__(self, x: Tensor, place: Place, number: int) -> Tensor:
        x = self.attention(x, place, number)
        return self.mixture(x, self.norm(x))
