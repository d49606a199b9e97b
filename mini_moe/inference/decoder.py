"""The model laid out for reading a few tokens at a time: few operations, nothing made anew.

A pass over one token does little arithmetic, so what it costs is weights read and operations
called. Here the projections of a layer's attention are one matrix product in and one out, rotations
stand in a table, and the cache is written in place.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from mini_moe.inference.absorption import absorbed_is_cheaper, absorbed_output, absorbed_query
from mini_moe.inference.cache import LatentCache
from mini_moe.model import Transformer
from mini_moe.model.attention import MultiHeadLatentAttention
from mini_moe.model.layers import SwiGLU
from mini_moe.model.moe import MoE
from mini_moe.model.rope import rope_rotation
from mini_moe.model.transformer import Block
from mini_moe.ops import compiled, moe_experts

CHUNK = 256  # most prompt tokens of a row that are read at once


class Decoder:
    """Reads tokens into a `LatentCache` and returns the vectors that the head turns into logits.

    Takes a copy of the attention's matrices, heads · (l + r) · e + heads · l · d numbers a layer,
    so weights changed afterwards need another Decoder. Everything else is the model's own memory.
    """

    @torch.inference_mode()
    def __init__(self, model: Transformer) -> None:
        self.model, self.config = model, model.config
        self.embedding = model.embed_tokens.weight.detach()
        self.head, self.norm = model.lm_head.weight.detach(), model.norm
        self.layers = [AbsorbedLayer(block) for block in model.layers]
        wide = torch.promote_types(self.embedding.dtype, torch.float32)
        rotation = rope_rotation(self.config, 0, self.config.max_seq_len, self.embedding.device).to(
            wide
        )
        self.rotation = torch.view_as_complex(rotation.contiguous())

    @torch.inference_mode()
    def read(
        self, tokens: Int[Tensor, "batch new"], cache: LatentCache
    ) -> Float[Tensor, "batch new d_model"]:
        """Read `new` more tokens of every row, absorbed where that is cheaper or rows differ.

        Raises: ValueError where the cache is another model's, full, or of another batch size, or
        an id is out of range.
        """
        if torch.is_autocast_enabled(tokens.device.type):  # it would round every weight anew
            with torch.autocast(tokens.device.type, enabled=False):
                return self.read(tokens, cache)
        batch, new = tokens.shape
        self.check(batch, new, cache)
        even = all(length == cache.lengths[0] for length in cache.lengths)
        if even and not absorbed_is_cheaper(self.config, new, cache.lengths[0] + new):
            return self.model.hidden(tokens, cache=cache)
        return rms_norm(
            self.run(self.layers, F.embedding(tokens, self.embedding), cache), self.norm
        )

    def check(self, batch: int, new: int, cache: LatentCache) -> None:
        """Raise ValueError unless the cache belongs to this model and has room."""
        if cache.model is not self.model:
            raise ValueError("cache: made for another model than the one that reads")
        cache.check_room(batch, new)

    @torch.inference_mode()
    def prefill(
        self, prompts: list[list[int]], cache: LatentCache
    ) -> Float[Tensor, "batch d_model"]:
        """Read prompts of any lengths into an empty cache; the vector at each one's last token.

        Shorter prompts are padded on the right while a chunk is read. No token sees what comes
        after it, and the next token overwrites the padding, so it has no effect.

        Raises: ValueError for ids out of range, an empty prompt, or a cache that does not fit.
        """
        lengths = [len(prompt) for prompt in prompts]
        self.check(len(prompts), max(lengths), cache)
        if any(cache.lengths) or not min(lengths):
            raise ValueError(f"prompts of 1 or more tokens and an empty cache expected: {lengths}")
        padded = [prompt + [prompt[-1]] * (max(lengths) - len(prompt)) for prompt in prompts]
        tokens = self.as_tokens(padded)
        self.model.check_tokens(tokens, 0)
        last = tokens.new_tensor(lengths) - 1
        found = self.embedding.new_empty(len(prompts), self.config.d_model)
        for start in range(0, max(lengths), CHUNK):
            hidden = self.read(tokens[:, start : start + CHUNK], cache)
            rows = ((last >= start) & (last < start + hidden.shape[1])).nonzero()[:, 0]
            found[rows] = hidden[rows, last[rows] - start]
        cache.lengths = lengths
        return found

    @torch.inference_mode()
    def read_all(self, tokens: list[int], cache: LatentCache) -> Float[Tensor, "1 new d_model"]:
        """Read one prompt in chunks; the vectors at all of its tokens."""
        whole = self.as_tokens([tokens])
        self.model.check_tokens(whole, 0)
        return torch.cat([self.read(part, cache) for part in whole.split(CHUNK, dim=1)], dim=1)

    def as_tokens(self, rows: list[list[int]]) -> Int[Tensor, "batch new"]:
        """Token ids on the model's device."""
        return torch.tensor(rows, device=self.embedding.device)

    @torch.inference_mode()
    def logits(self, hidden: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch vocab"]:
        """What the head makes of the vectors that were read."""
        with torch.autocast(hidden.device.type, enabled=False):
            return F.linear(hidden, self.head)

    def run(self, layers: list["AbsorbedLayer"], x: Tensor, cache: LatentCache) -> Tensor:
        """The layers' output for embedded tokens [batch, new, d_model]; the cache grows."""
        batch, new, _ = x.shape
        place = Place(cache, new, self.rotation)
        x = x.flatten(0, 1)
        for number, layer in enumerate(layers):
            x = layer(x, place, number)
        cache.lengths = [length + new for length in cache.lengths]
        return x.view(batch, new, -1)


class Place:
    """Where a pass stands: what every layer of it needs to know, worked out once."""

    def __init__(self, cache: LatentCache, new: int, rotation: Tensor) -> None:
        starts, batch = cache.lengths, cache.batch
        self.batch, self.new = batch, new
        end = max(starts) + new
        held = cache.numbers[:, :batch, :end]
        self.keys = held.transpose(-1, -2).unbind(0)
        self.values = held[..., : cache.model.config.kv_lora_rank].unbind(0)
        self.hidden_from = None
        if min(starts) == max(starts):
            self.rotation = rotation[None, starts[0] : end, None]
            self.slots = held[:, :, starts[0] :].unbind(0)
            positions = torch.arange(starts[0], end, device=held.device)[None]
        else:
            steps = torch.arange(new, device=held.device)
            positions = torch.tensor(starts, device=held.device)[:, None] + steps
            self.rotation = rotation[positions][:, :, None]
            rows = torch.arange(batch, device=held.device)[:, None]
            self.slots, self.index = cache.numbers.unbind(0), (rows, positions)
        self.even = min(starts) == max(starts)
        if new > 1 or not self.even:
            after = torch.arange(end, device=held.device) > positions[..., None]
            self.hidden_from = after[:, :, None]  # [1 or batch, new, 1, keys]

    def write(self, number: int, kept: Tensor) -> None:
        """Put a layer's latents and rotated keys [batch, new, width] into the cache."""
        if self.even:
            self.slots[number].copy_(kept)
        else:
            self.slots[number].index_put_(self.index, kept)


class AbsorbedLayer:
    """One block: attention on latents, then experts or a feed-forward network."""

    def __init__(self, block: Block) -> None:
        self.attention = AbsorbedAttention(block.self_attn, block.input_layernorm)
        self.norm = block.post_attention_layernorm
        self.mixture = MixtureStep(block.mlp) if block.is_moe else SwiGLUStep(block.mlp)

    def __call__(self, x: Tensor, place: Place, number: int) -> Tensor:
        x = self.attention(x, place, number)
        return self.mixture(x, rms_norm(x, self.norm))


class AbsorbedAttention:
    """Heads attend to the cached latents: one product in, two with the cache, one out."""

    def __init__(self, attention: MultiHeadLatentAttention, norm) -> None:
        config = attention.config
        self.heads, self.rank = config.n_heads, config.kv_lora_rank
        self.width = config.kv_lora_rank + config.qk_rope_head_dim
        dtype = attention.o_proj.weight.dtype
        self.norm, self.latent_norm = norm, attention.kv_a_layernorm
        query, kept = absorbed_query(attention), attention.kv_a_proj_with_mqa.weight.detach()
        if config.q_lora_rank is None:
            self.first, self.second = torch.cat((query, kept.to(query.dtype))).to(dtype), None
        else:
            self.first = torch.cat((attention.q_a_proj.weight.detach(), kept))
            self.second, self.query_norm = query.to(dtype), attention.q_a_layernorm
        self.output = absorbed_output(attention).to(dtype).t()

    def __call__(self, x: Tensor, place: Place, number: int) -> Tensor:
        batch, new = place.batch, place.new
        made = F.linear(rms_norm(x, self.norm), self.first)
        if self.second is not None:
            small, kept = made.split([made.shape[-1] - self.width, self.width], dim=-1)
            query = F.linear(rms_norm(small, self.query_norm), self.second)
            made = torch.cat((query, kept), dim=-1)
        made = made.view(batch, new, self.heads + 1, self.width)
        turn(made[..., self.rank :], place.rotation)
        kept = made[:, :, self.heads]
        kept[..., : self.rank] = rms_norm(kept[..., : self.rank], self.latent_norm)
        place.write(number, kept)
        query = made[:, :, : self.heads].reshape(batch, new * self.heads, self.width)
        scores = torch.bmm(query, place.keys[number])
        if place.hidden_from is not None:
            scores.view(batch, new, self.heads, -1).masked_fill_(place.hidden_from, -torch.inf)
        mixed = torch.bmm(scores.softmax(dim=-1), place.values[number])
        return torch.addmm(x, mixed.view(batch * new, self.heads * self.rank), self.output)


class MixtureStep:
    """Router, chosen experts and shared experts, added to what came in."""

    def __init__(self, mixture: MoE) -> None:
        self.gate, self.experts = mixture.gate, mixture.experts
        self.shared = SwiGLUStep(mixture.shared_experts) if mixture.shared_experts else None
        self.gate_up = mixture.experts.gate_up_proj.detach()
        self.down = mixture.experts.down_proj.detach()
        self.router = mixture.gate.weight.detach()
        self.bias = mixture.gate.e_score_correction_bias
        config = mixture.gate.config
        self.settings = (
            *(config.top_k, config.n_expert_groups, config.top_k_groups),
            *(config.group_score == "top2_sum", config.score_function == "softmax"),
            *(config.norm_topk_prob, config.route_scale),
        )
        small = config.top_k <= 32 and config.n_routed_experts <= 1024
        exact = self.router.dtype == self.down.dtype == torch.float32
        self.compiled = small and exact and compiled.serves(self.router, self.router)

    def __call__(self, x: Tensor, normed: Tensor) -> Tensor:
        if self.compiled:
            ops = torch.ops.mini_moe
            logits = F.linear(normed, self.router)
            gates, ids, _ = ops.topk_gate.default(logits, self.bias, *self.settings)
            mixed, _ = ops.experts_forward.default(
                normed, ids, gates, self.gate_up, self.down, False
            )
        else:
            routing = self.gate(normed)
            mixed = moe_experts(normed, routing.expert_ids, routing.gates, self.gate_up, self.down)
        return x + mixed if self.shared is None else self.shared(mixed.add_(x), normed)


class SwiGLUStep:
    """A feed-forward network, added to what came in."""

    def __init__(self, network: SwiGLU) -> None:
        self.both = torch.cat((network.gate_proj.weight, network.up_proj.weight)).detach()
        self.down = network.down_proj.weight.detach().t()

    def __call__(self, x: Tensor, normed: Tensor) -> Tensor:
        gate, up = F.linear(normed, self.both).chunk(2, dim=-1)
        return torch.addmm(x, F.silu(gate).mul_(up), self.down)


def rms_norm(x: Tensor, norm) -> Tensor:
    """`RMSNorm` without its module's call."""
    return F.rms_norm(x, norm.weight.shape, norm.weight, norm.eps)


def turn(x: Tensor, rotation: Tensor) -> None:
    """RoPE in place: neighbouring channels are a complex number, a rotation is a product."""
    wide = rotation.real.dtype
    pairs = x.unflatten(-1, (-1, 2))
    if x.dtype == wide and all(stride % 2 == 0 for stride in pairs.stride()[:-1]):
        if pairs.storage_offset() % 2 == 0:
            torch.view_as_complex(pairs).mul_(rotation)
            return
    turned = torch.view_as_complex(pairs.to(wide).contiguous()) * rotation
    pairs.copy_(torch.view_as_real(turned))
