"""How much every module of a model multiplies, reads and writes, from the configuration alone."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from mini_moe.config import ModelConfig
from mini_moe.ops.attention import LONGEST_EXPLICIT, query_blocks

Pairs = Literal["causal", "square", "executed"]
Latent = Literal["expanded", "absorbed", "naive"]
FP32 = 4  # bytes per number in the router, whatever the dtype of the rest


@dataclass(frozen=True, kw_only=True)
class Work:
    """The work given to the model: new tokens, tokens in the cache, and how they are counted."""

    batch: int  # number of sequences
    seq: int  # new tokens per sequence
    context: int | None  # tokens per sequence already in the cache; None: no cache
    pairs: Pairs  # which (query, key) pairs are counted in attention
    latent: Latent  # how MLA uses its latent
    n_bytes: int  # per number
    fused: bool = False  # attention is one compiled kernel, for which torch counts all pairs

    @property
    def tokens(self) -> int:
        """New tokens in all sequences."""
        return self.batch * self.seq

    @property
    def keys(self) -> int:
        """Number of positions that a sequence's last query can see."""
        return self.seq + (self.context or 0)

    def n_pairs(self) -> int:
        """Count the (query, key) pairs of one head and one sequence, as `pairs` defines them."""
        if self.pairs == "causal":
            return self.seq * (self.context or 0) + self.seq * (self.seq + 1) // 2
        if self.pairs == "square" or self.fused or self.keys > LONGEST_EXPLICIT:
            return self.seq * self.keys
        return sum(
            (block.stop - block.start) * seen for block, seen in query_blocks(self.seq, self.keys)
        )


@dataclass(frozen=True, kw_only=True)
class Part:
    """One module's share: parameters, FLOPs per pass, and bytes moved to and from memory."""

    name: str  # the module's path in the model
    kind: str  # kind of module, the same in every layer
    parameters: int = 0
    active_parameters: int = 0  # those that a single token uses
    flops_forward: int = 0
    flops_backward: int = 0
    weight_bytes: int = 0  # weights read by a forward pass
    activation_bytes: int = 0  # inputs read and outputs written by a forward pass
    cache_bytes: int = 0  # keys, values or latents read from the cache and added to it
    shape: tuple[int, ...] = ()  # [out, in] of a single matrix


def parts_of(config: ModelConfig, work: Work) -> Iterator[Part]:
    """Yield every module in the order of execution, MTP modules last."""
    d, vocab, t, b = config.d_model, config.vocab_size, work.tokens, work.n_bytes
    table = vocab * d
    yield Part(
        name="embed_tokens", kind="embedding", parameters=table, active_parameters=table,
        weight_bytes=t * d * b, activation_bytes=t * d * b,
    )  # fmt: skip
    for layer in range(config.n_layers):
        yield from block(config, work, f"layers.{layer}", layer)
    yield norm("norm", d, t, b)
    head = linear("lm_head", "head", t, d, vocab, b)
    yield _without_parameters(head) if config.tie_embeddings else head
    for depth in range(config.n_mtp_layers):
        path = f"mtp.{depth}"
        yield norm(f"{path}.enorm", d, t, b)
        yield norm(f"{path}.hnorm", d, t, b)
        yield linear(f"{path}.eh_proj", "projection", t, 2 * d, d, b)
        yield from block(config, work, f"{path}.block", config.n_layers + depth)
        yield norm(f"{path}.norm", d, t, b)
        yield _without_parameters(linear(f"{path}.lm_head", "head", t, d, vocab, b))


def block(config: ModelConfig, work: Work, path: str, layer: int) -> Iterator[Part]:
    """Yield norm, attention, norm, and a feed-forward network or experts."""
    d, t, b = config.d_model, work.tokens, work.n_bytes
    yield norm(f"{path}.input_layernorm", d, t, b)
    yield from attention(config, work, f"{path}.self_attn")
    yield norm(f"{path}.post_attention_layernorm", d, t, b)
    if not (config.n_moe_layers and layer >= config.n_dense_layers):
        yield from swiglu(f"{path}.mlp", "dense feed-forward", t, d, config.d_ff, b)
        return
    yield router(config, work, f"{path}.mlp.gate")
    yield experts(config, work, f"{path}.mlp.experts")
    if config.n_shared_experts:
        width = config.n_shared_experts * config.d_expert
        yield from swiglu(f"{path}.mlp.shared_experts", "shared experts", t, d, width, b)


def attention(config: ModelConfig, work: Work, path: str) -> Iterator[Part]:
    """Yield the projections, with the products of queries, keys and values before the last one.

    `expanded` rebuilds keys and values of all heads from every cached latent at every call;
    `absorbed` multiplies queries and outputs by the halves of kv_b_proj instead, so that it is
    applied only to new tokens; `naive` keeps the keys and values of all heads in the cache.
    Source: DeepSeek-V2, arXiv 2405.04434 §2.1.2 and §2.1.3.
    """
    d, heads, latent, rope = (
        config.d_model, config.n_heads, config.kv_lora_rank, config.qk_rope_head_dim
    )  # fmt: skip
    t, b, kind = work.tokens, work.n_bytes, "attention projections"
    queries = heads * config.qk_head_dim
    if config.q_lora_rank is None:
        yield linear(f"{path}.q_proj", kind, t, d, queries, b)
    else:
        yield linear(f"{path}.q_a_proj", kind, t, d, config.q_lora_rank, b)
        yield norm(f"{path}.q_a_layernorm", config.q_lora_rank, t, b)
        yield linear(f"{path}.q_b_proj", kind, t, config.q_lora_rank, queries, b)
    yield linear(f"{path}.kv_a_proj_with_mqa", kind, t, d, latent + rope, b)
    yield norm(f"{path}.kv_a_layernorm", latent, t, b)
    rebuilt = work.batch * work.keys if work.latent == "expanded" else t
    both = heads * (config.qk_nope_head_dim + config.v_head_dim)
    yield linear(f"{path}.kv_b_proj", kind, rebuilt, latent, both, b)
    yield attention_core(config, work, path)
    yield linear(f"{path}.o_proj", kind, t, heads * config.v_head_dim, d, b)


def attention_core(config: ModelConfig, work: Work, path: str) -> Part:
    """Queries times keys and weights times values: 2 FLOPs per pair and element of a head.

    Bytes: queries, keys and values are read once and the outputs written once, as in a kernel that
    never writes the attention weights to memory. Beyond LONGEST_EXPLICIT keys, `executed` without
    the compiled kernel follows torch's: both widths padded to the larger, and scores recomputed in
    the backward pass.
    """
    heads, latent, rope = config.n_heads, config.kv_lora_rank, config.qk_rope_head_dim
    d_qk, d_v = config.qk_head_dim, config.v_head_dim
    if work.latent == "absorbed":
        d_qk, d_v = latent + rope, latent
    executed = work.pairs == "executed" and not work.fused
    flash = executed and work.keys > LONGEST_EXPLICIT
    if flash:
        d_qk = d_v = max(d_qk, d_v)
    pairs = work.batch * heads * work.n_pairs()
    kept = heads * (d_qk + d_v) if work.latent != "absorbed" else latent + rope
    cached = kept if work.latent == "naive" else latent + rope
    through = work.batch * (work.seq * heads * (d_qk + d_v) + work.keys * kept)
    return Part(
        name=path, kind="attention core",
        flops_forward=2 * pairs * (d_qk + d_v),
        flops_backward=2 * pairs * (2 * (d_qk + d_v) + (d_qk if flash else 0)),
        activation_bytes=through * work.n_bytes,
        cache_bytes=0 if work.context is None else work.batch * work.keys * cached * work.n_bytes,
    )  # fmt: skip


def router(config: ModelConfig, work: Work, path: str) -> Part:
    """One score per expert, in fp32; the expert bias counts as a parameter."""
    part = linear(path, "router", work.tokens, config.d_model, config.n_routed_experts, FP32)
    bias = config.n_routed_experts if config.expert_bias else 0
    held = part.parameters + bias
    return _replaced(part, parameters=held, active_parameters=held)


def experts(config: ModelConfig, work: Work, path: str) -> Part:
    """Every token through top_k experts of three matrices each, then the sum of their outputs.

    Weights read are those of experts that at least one token chose; under even routing that is on
    average experts · (1 − (1 − top_k / experts)^tokens) experts.
    """
    d, width, n, k = config.d_model, config.d_expert, config.n_routed_experts, config.top_k
    t, b = work.tokens, work.n_bytes
    one, rows = 3 * d * width, t * k
    touched = n * -math.expm1(t * math.log1p(-k / n)) if k < n else n
    moved = rows * (d + 2 * width) + rows * (width + d) + rows * d + t * d
    return Part(
        name=path, kind="routed experts", parameters=n * one, active_parameters=k * one,
        flops_forward=2 * rows * one, flops_backward=4 * rows * one,
        weight_bytes=round(touched * one * b), activation_bytes=moved * b,
    )  # fmt: skip


def swiglu(path: str, kind: str, t: int, d: int, width: int, b: int) -> Iterator[Part]:
    """Yield gate, up and down projection."""
    yield linear(f"{path}.gate_proj", kind, t, d, width, b)
    yield linear(f"{path}.up_proj", kind, t, d, width, b)
    yield linear(f"{path}.down_proj", kind, t, width, d, b)


def linear(name: str, kind: str, tokens: int, d_in: int, d_out: int, n_bytes: int) -> Part:
    """[tokens, d_in] × [d_in, d_out]: 2 · tokens · d_in · d_out FLOPs, and twice that backward.

    The backward pass has two products of the same size, for the input's gradient and the weight's.
    """
    weights, flops = d_in * d_out, 2 * tokens * d_in * d_out
    return Part(
        name=name, kind=kind, parameters=weights, active_parameters=weights, flops_forward=flops,
        flops_backward=2 * flops, weight_bytes=weights * n_bytes,
        activation_bytes=tokens * (d_in + d_out) * n_bytes, shape=(d_out, d_in),
    )  # fmt: skip


def norm(name: str, width: int, tokens: int, n_bytes: int) -> Part:
    """A norm has no products, hence no FLOPs here; it reads its input and writes its output."""
    return Part(
        name=name, kind="norms", parameters=width, active_parameters=width,
        weight_bytes=width * n_bytes, activation_bytes=2 * tokens * width * n_bytes,
    )  # fmt: skip


def muon_flops(config: ModelConfig) -> int:
    """FLOPs of the products in one step of Muon: Newton–Schulz on every matrix in the blocks.

    Five rounds of X Xᵀ, its square, and the product with X: 5 · (4 r² c + 2 r³) for an r × c matrix
    with r ≤ c. A step costs the same however many tokens it saw. AdamW has no products.
    """
    work = Work(batch=1, seq=1, context=None, pairs="causal", latent="expanded", n_bytes=FP32)
    d, width, one = config.d_model, config.d_expert, 0
    for part in parts_of(config, work):
        if part.kind == "routed experts":
            one += config.n_routed_experts * 3 * _newton_schulz(d, width)
        elif part.shape and part.kind not in ("head", "router"):
            one += _newton_schulz(*part.shape)
    return one


def _newton_schulz(rows: int, columns: int, rounds: int = 5) -> int:
    r, c = min(rows, columns), max(rows, columns)
    return rounds * (4 * r * r * c + 2 * r**3)


def _without_parameters(part: Part) -> Part:
    """Return the same work without parameters, for a matrix that is already counted elsewhere."""
    return _replaced(part, parameters=0, active_parameters=0)


def _replaced(part: Part, **fields: int) -> Part:
    return Part(**{**vars(part), **fields})
