"""The definition of every operation, in plain PyTorch.

Slow and obvious on purpose. Every faster form must agree with its definition here;
`python -m mini_moe.ops` lists them.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import einsum, rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mini_moe.config import ModelConfig

# ---------------------------------------------------------------- experts


def moe_experts(
    x: Float[Tensor, "tokens d_model"],
    expert_ids: Int[Tensor, "tokens top_k"],
    gates: Float[Tensor, "tokens top_k"],
    gate_up_proj: Float[Tensor, "experts 2 d_expert d_model"],
    down_proj: Float[Tensor, "experts d_model d_expert"],
) -> Float[Tensor, "tokens d_model"]:
    """Σ_k gates[t, k] · E_{expert_ids[t, k]}(x_t) with E(x) = W_down (silu(W_gate x) ⊙ W_up x).

    Source: DeepSeekMoE (arXiv 2401.06066) §2, equation 3; SwiGLU: arXiv 2002.05202 §2.
    """
    mixed = torch.zeros_like(x)
    for expert, (gate_up, down) in enumerate(zip(gate_up_proj, down_proj, strict=True)):
        weight = torch.where(expert_ids == expert, gates, 0).sum(dim=-1, keepdim=True)
        chosen = (expert_ids == expert).any(dim=-1, keepdim=True)
        gate, up = einsum(x, gate_up, "tokens d, two f d -> two tokens f")
        output = (F.silu(gate) * up) @ down.T
        mixed = mixed + torch.where(chosen, weight.to(x.dtype) * output, 0)
    return mixed


# ---------------------------------------------------------------- the router


class Routing(NamedTuple):
    """One layer's decisions, in the order they are made."""

    logits: Float[Tensor, "tokens experts"]
    scores: Float[Tensor, "tokens experts"]  # sigmoid or softmax of the logits
    choice_scores: Float[Tensor, "tokens experts"]  # scores + bias; −inf outside chosen groups
    expert_ids: Int[Tensor, "tokens top_k"]  # best first; ties go to the lower id
    gates: Float[Tensor, "tokens top_k"]  # weights of the chosen experts, without the bias


def route(
    logits: Float[Tensor, "tokens experts"],
    expert_bias: Float[Tensor, "experts"] | None,
    config: ModelConfig,
) -> Routing:
    """Logits → scores → + bias → groups → top-k → gates.

    The bias affects the choice but never the weight: gates are computed from the raw scores.
    Source: DeepSeek-V3, arXiv 2412.19437 §2.1.2, equations 12–16.
    """
    scores = logits.sigmoid() if config.score_function == "sigmoid" else logits.softmax(dim=-1)
    choice_scores = scores.detach()
    if expert_bias is not None:
        choice_scores = choice_scores + expert_bias
    if config.n_expert_groups > 1:
        allowed = allowed_experts(choice_scores, config)
        choice_scores = choice_scores.masked_fill(~allowed, float("-inf"))
    expert_ids = choose(choice_scores, config.top_k)
    gates = gate_weights(scores.gather(-1, expert_ids), config)
    return Routing(logits, scores, choice_scores, expert_ids, gates)


def choose(values: Float[Tensor, "tokens n"], k: int) -> Int[Tensor, "tokens k"]:
    """Return the indices of the k largest values, best first; ties go to the lower index."""
    return values.sort(dim=-1, descending=True, stable=True).indices[:, :k]


def allowed_experts(
    choice_scores: Float[Tensor, "tokens experts"], config: ModelConfig
) -> Bool[Tensor, "tokens experts"]:
    """Return a mask of the experts in each token's `top_k_groups` best groups.

    A group's score is the sum of its two best choice scores (V3) or its best one (V2). In V3 a
    group is a node, so this limits how many nodes a token's activations are sent to.
    Source: arXiv 2412.19437 §2.1.2 "Node-Limited Routing"; arXiv 2405.04434 §2.2.2.
    """
    grouped = rearrange(choice_scores, "tokens (g e) -> tokens g e", g=config.n_expert_groups)
    best = grouped.topk(2 if config.group_score == "top2_sum" else 1, dim=-1).values
    groups = choose(best.sum(dim=-1), config.top_k_groups)
    kept = torch.zeros_like(grouped[..., 0], dtype=torch.bool).scatter(-1, groups, True)
    return repeat(kept, "tokens g -> tokens (g e)", e=grouped.shape[-1])


def gate_weights(
    chosen_scores: Float[Tensor, "tokens top_k"], config: ModelConfig
) -> Float[Tensor, "tokens top_k"]:
    """Return the chosen scores, divided by their sum if `norm_topk_prob`, times `route_scale`."""
    if config.norm_topk_prob:
        chosen_scores = chosen_scores / (chosen_scores.sum(dim=-1, keepdim=True) + 1e-20)
    return chosen_scores * config.route_scale


# ---------------------------------------------------------------- attention


def attention(
    query: Float[Tensor, "batch heads queries d_qk"],
    key: Float[Tensor, "batch heads keys d_qk"],
    value: Float[Tensor, "batch heads keys d_v"],
    scale: float,
) -> Float[Tensor, "batch heads queries d_v"]:
    """softmax(scale · q kᵀ + mask) v: each query sees its own position and all earlier ones.

    The queries are the last positions of the keys. Source: Vaswani et al., arXiv 1706.03762 §3.2.1.
    """
    scores = einsum(query * scale, key, "b h queries d, b h keys d -> b h queries keys")
    scores = scores.masked_fill(future(*scores.shape[-2:], like=scores), float("-inf"))
    return einsum(scores.softmax(dim=-1), value, "b h queries keys, b h keys d -> b h queries d")


def future(queries: int, keys: int, like: Tensor) -> Bool[Tensor, "queries keys"]:
    """Return a mask of the keys that come after each query; the last query sees every key."""
    everything = torch.ones(queries, keys, dtype=torch.bool, device=like.device)
    return everything.triu(diagonal=keys - queries + 1)


def keys_and_values(
    kv: Float[Tensor, "batch keys heads d_nope_and_v"],
    key_rope: Float[Tensor, "batch keys d_rope"],
    d_qk: int,
) -> tuple[Float[Tensor, "batch heads keys d_qk"], Float[Tensor, "batch heads keys d_v"]]:
    """Return every head's keys [nope | rope], with the rope part repeated, and its values.

    Source: DeepSeek-V3, arXiv 2412.19437 §2.1.1, equations 3–5.
    """
    heads = rearrange(kv, "batch keys heads d -> batch heads keys d")
    d_nope = d_qk - key_rope.shape[-1]
    nope, value = heads.split([d_nope, heads.shape[-1] - d_nope], dim=-1)
    shared = repeat(key_rope, "batch keys d -> batch heads keys d", heads=heads.shape[1])
    return torch.cat((nope, shared), dim=-1), value


def apply_rope(
    x: Float[Tensor, "*batch seq width"], rotation: Float[Tensor, "seq pairs 2"]
) -> Float[Tensor, "*batch seq width"]:
    """Rotate each pair of adjacent channels (2i, 2i + 1) by its angle, in fp32 or wider.

    (a, b) → (a cos − b sin, a sin + b cos). The dot product of two rotated vectors depends only on
    the distance between their positions. Pairs are adjacent channels, as in DeepSeek's weights.
    Source: Su et al., arXiv 2104.09864 §3.4.2.
    """
    cos, sin = rotation.to(torch.promote_types(x.dtype, torch.float32)).unbind(-1)
    first, second = rearrange(x.to(cos.dtype), "... (pairs two) -> two ... pairs", two=2)
    turned = torch.stack((first * cos - second * sin, first * sin + second * cos), dim=-1)
    return rearrange(turned, "... pairs two -> ... (pairs two)").to(x.dtype)


# ---------------------------------------------------------------- dense parts and the loss


def rms_norm(
    x: Float[Tensor, "*batch width"], weight: Float[Tensor, "width"], eps: float
) -> Float[Tensor, "*batch width"]:
    """x / √(mean(x²) + eps), times weight; the division runs in fp32 or wider.

    Source: Zhang and Sennrich, arXiv 1910.07467 §4.
    """
    wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
    normed = wide * torch.rsqrt(wide.pow(2).mean(dim=-1, keepdim=True) + eps)
    return weight * normed.to(x.dtype)


def linear(
    x: Float[Tensor, "*batch d_in"], weight: Float[Tensor, "d_out d_in"]
) -> Float[Tensor, "*batch d_out"]:
    """x weightᵀ."""
    return F.linear(x, weight)


def swiglu_product(
    gate: Float[Tensor, "*batch d_ff"], up: Float[Tensor, "*batch d_ff"]
) -> Float[Tensor, "*batch d_ff"]:
    """silu(gate) ⊙ up. Source: Shazeer, arXiv 2002.05202 §2."""
    return F.silu(gate) * up


def cross_entropy(
    logits: Float[Tensor, "tokens vocab"], targets: Int[Tensor, "tokens"]
) -> Float[Tensor, ""]:
    """−ln softmax(logits)[target], averaged over all tokens, in fp32 or wider."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(wide, targets, ignore_index=-(2**31))  # no target is ignored
