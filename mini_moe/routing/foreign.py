"""What the recorder needs to know about a model, whether ours or a transformers MoE.

While a transformers model runs, three tensors of each MoE layer are copied: the logits that the
router returns, and the expert ids and gates passed to the experts. In detail:

| family | logits returned by the router | gates passed to the experts |
|---|---|---|
| DeepSeek-V2 | fp32 | softmax · routed_scaling_factor |
| DeepSeek-V3, GLM-4-MoE | fp32 | sigmoid, over their sum if norm_topk_prob, · scaling factor |
| Mixtral | model's dtype | softmax over their sum, fp32 |
| OLMoE, Qwen2-MoE, Qwen3-MoE | model's dtype | softmax, over their sum if norm_topk_prob |
| gpt-oss | model's dtype, with the router's bias | softmax over the chosen logits only |

The gates of OLMoE, Qwen and gpt-oss have the model's dtype. Shared experts are not recorded.
"""

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn

from mini_moe.config import ModelConfig
from mini_moe.model import Routing, Transformer

# Routers of transformers 5 whose rules are known, and the models that use them.
SUPPORTED = {
    "DeepseekV2TopkRouter": "DeepSeek-V2",
    "DeepseekV3TopkRouter": "DeepSeek-V3, R1, Moonlight, Kimi K2",
    "Glm4MoeTopkRouter": "GLM-4.5 to 4.7",
    "GptOssTopKRouter": "gpt-oss",
    "MixtralTopKRouter": "Mixtral",
    "OlmoeTopKRouter": "OLMoE",
    "Qwen2MoeTopKRouter": "Qwen1.5-MoE, Qwen2-MoE",
    "Qwen3MoeTopKRouter": "Qwen3-MoE",
}

Run = Callable[[Tensor, Tensor | None], tuple[Tensor | None, list[Routing]]]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model as the recorder sees it.

    `run(tokens [batch, seq], inside)` returns the logits (or None) and each MoE layer's decisions;
    `inside` is False at padding, or None if there is no padding.
    """

    run: Run
    layers: tuple[int, ...]  # model layer index of each MoE layer
    score_function: str
    device: torch.device
    vocab_size: int | None = None
    max_seq_len: int | None = None
    tokenizer: Any = None
    config: ModelConfig | None = None


def subject_of(model: nn.Module) -> Subject:
    """Wrap a model of ours, or a transformers model with a known kind of router, for recording.

    Raises: ValueError for anything but a module, a model without experts, or unknown experts.
    """
    if isinstance(model, Transformer):
        return _our_subject(model)
    if not isinstance(model, nn.Module):
        raise ValueError(f"model: an nn.Module expected, got {type(model).__name__}")
    blocks = find_blocks(model)
    if not hasattr(model, "get_input_embeddings"):
        raise ValueError(_unknown(f"{type(model).__name__}, which is not a transformers model"))
    embedding = model.get_input_embeddings().weight
    config = getattr(model.config, "get_text_config", lambda: model.config)()

    def run(tokens: Tensor, inside: Tensor | None) -> tuple[Tensor | None, list[Routing]]:
        mask = None if inside is None else inside.long()
        with recording(blocks) as seen:
            output = model(input_ids=tokens, attention_mask=mask, use_cache=False, return_dict=True)
        routings = [_decision(n, router, seen[n]) for n, (router, _) in blocks.items()]
        return getattr(output, "logits", None), routings

    return Subject(
        run=run,
        layers=tuple(blocks),
        score_function=score_function(next(iter(blocks.values()))[0]),
        device=embedding.device,
        vocab_size=embedding.shape[0],
        max_seq_len=getattr(config, "max_position_embeddings", None),
    )


def _our_subject(model: Transformer) -> Subject:
    config = model.config
    if config.n_dense_layers >= config.n_layers:
        raise ValueError("model: a mixture of experts expected, this one has only dense layers")

    def run(tokens: Tensor, inside: Tensor | None) -> tuple[Tensor | None, list[Routing]]:
        """Run without a mask: attention is causal, so right padding cannot affect the text."""
        routings: list[Routing] = []
        return model(tokens, routings=routings), routings

    return Subject(
        run=run,
        layers=tuple(range(config.n_dense_layers, config.n_layers)),
        score_function=config.score_function,
        device=model.embed_tokens.weight.device,
        vocab_size=config.vocab_size,
        max_seq_len=config.max_seq_len,
        tokenizer=model.tokenizer,
        config=config,
    )


def find_blocks(model: nn.Module) -> dict[int, tuple[nn.Module, nn.Module]]:
    """Map each MoE layer's index to its router and its experts.

    A block is a module with `experts` and a router named `gate` or `router`; its layer index is
    the last number in its name.
    Raises: ValueError if there are none, or two in one layer.
    """
    blocks: dict[int, tuple[nn.Module, nn.Module]] = {}
    for name, module in model.named_modules():
        experts = getattr(module, "experts", None)
        router = getattr(module, "gate", None) or getattr(module, "router", None)
        if not (isinstance(experts, nn.Module) and isinstance(router, nn.Module)):
            continue
        numbers = re.findall(r"(?:^|\.)(\d+)(?=\.|$)", name)
        layer = int(numbers[-1]) if numbers else len(blocks)
        if layer in blocks:
            raise ValueError(f"model: one MoE block per layer expected, got a second one, {name}")
        blocks[layer] = router, experts
    if not blocks:
        kinds = {type(module).__name__ for module in model.modules()}
        suspects = sorted(kind for kind in kinds if re.search("moe|expert", kind, re.IGNORECASE))
        if suspects:
            raise ValueError(_unknown(f"{', '.join(suspects)} without a recognisable router"))
        raise ValueError("model: a mixture of experts expected, this one has only dense layers")
    return blocks


@contextmanager
def recording(
    blocks: dict[int, tuple[nn.Module, nn.Module]],
) -> Iterator[dict[int, dict[str, Tensor]]]:
    """Collect each layer's router logits and the ids and gates passed to its experts.

    `logits` is the first tensor the router returns; `expert_ids` and `gates` are the integer
    tensor and the floating-point tensor of the same shape among the experts' arguments. The hooks
    change nothing, ignore other threads, and are removed at the end, even after an exception.
    """
    seen: dict[int, dict[str, Tensor]] = {layer: {} for layer in blocks}
    handles, here = [], threading.get_ident()

    def watch(layer: int, router: nn.Module, experts: nn.Module) -> None:
        def routed(module: nn.Module, args: tuple, output: Any) -> None:
            if threading.get_ident() != here:
                return
            if not isinstance(output, tuple) or len(output) != 3:
                raise ValueError(_unknown(f"{type(module).__name__} of layer {layer}"))
            seen[layer]["logits"] = output[0].detach().clone()

        def given(module: nn.Module, args: tuple, kwargs: dict) -> None:
            if threading.get_ident() != here:
                return
            tensors = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)]
            ids = next((x for x in tensors if not x.is_floating_point()), None)
            gates = [x for x in tensors[1:] if x.is_floating_point()]
            if ids is None or not gates or gates[0].shape != ids.shape:
                raise ValueError(_unknown(f"{type(module).__name__} of layer {layer}"))
            seen[layer] |= {"expert_ids": ids.detach().clone(), "gates": gates[0].detach().clone()}

        handles.append(router.register_forward_hook(routed))
        handles.append(experts.register_forward_pre_hook(given, with_kwargs=True))

    try:
        for layer, (router, experts) in blocks.items():
            watch(layer, router, experts)
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def score_function(router: nn.Module) -> str:
    """Return "sigmoid" for routers with a choice-only bias, "softmax" for all others."""
    return "sigmoid" if hasattr(router, "e_score_correction_bias") else "softmax"


def scores_from_logits(
    router: nn.Module, logits: Float[Tensor, "tokens experts"]
) -> tuple[Float[Tensor, "tokens experts"], Float[Tensor, "tokens experts"]]:
    """Compute scores and choice scores from a router's logits in fp32, with its own formulas.

    DeepSeek-V3, GLM-4-MoE: sigmoid; choice scores add `e_score_correction_bias` and are −inf
    outside the `topk_group` groups with the largest sum of their two best.
    DeepSeek-V2: softmax; with "group_limited_greedy", choice scores are −inf outside the groups
    with the largest maximum.
    Mixtral, OLMoE, Qwen2-MoE, Qwen3-MoE: softmax, for both.
    gpt-oss: softmax over all experts. The model never computes it: it takes the softmax of the
    chosen logits only, which equals these scores divided by their sum over the chosen experts.
    """
    logits = logits.float()
    if score_function(router) == "sigmoid":
        scores = logits.sigmoid()
        choice_scores = scores + router.e_score_correction_bias
    else:
        scores = choice_scores = logits.softmax(dim=-1)
    groups, limited = getattr(router, "num_group", None) or 1, True
    if hasattr(router, "topk_method"):
        limited = router.topk_method == "group_limited_greedy"
    if groups == 1 or not limited:
        return scores, choice_scores
    grouped = rearrange(choice_scores, "tokens (g e) -> tokens g e", g=groups)
    n_best = 2 if score_function(router) == "sigmoid" else 1
    worth = grouped.topk(n_best, dim=-1).values.sum(dim=-1)
    kept = worth.topk(router.topk_group, dim=-1, sorted=False).indices
    allowed = torch.zeros_like(worth, dtype=torch.bool).scatter(-1, kept, True)
    allowed = repeat(allowed, "tokens g -> tokens (g e)", e=grouped.shape[-1])
    return scores, choice_scores.masked_fill(~allowed, float("-inf"))


def _decision(layer: int, router: nn.Module, seen: dict[str, Tensor]) -> Routing:
    """Build one layer's record, best choice first; half precision widens to fp32 exactly."""
    kind = type(router).__name__
    if len(seen) < 3:
        raise ValueError(
            f"model: {kind} and its experts expected to run as modules, those of layer {layer} did "
            "not (a compiled model, or a fused kernel?)"
        )
    wide = {name: x.to(torch.promote_types(x.dtype, torch.float32)) for name, x in seen.items()}
    logits, gates = (rearrange(wide[name], "... n -> (...) n") for name in ("logits", "gates"))
    expert_ids = rearrange(seen["expert_ids"], "... k -> (...) k").long()
    scores, choice_scores = scores_from_logits(router, logits)
    order = choice_scores.gather(-1, expert_ids).argsort(dim=-1, descending=True, stable=True)
    expert_ids, gates = expert_ids.gather(-1, order), gates.gather(-1, order)
    routing = Routing(logits, scores, choice_scores, expert_ids, gates)
    if kind not in SUPPORTED and not _explains(routing):
        raise ValueError(_unknown(f"{kind}, whose choices or gates follow another rule"))
    return routing


def _explains(routing: Routing) -> bool:
    """Whether the best scores were chosen, with gates in proportion to the chosen scores.

    A router that is not in SUPPORTED but looks like one that is gets recorded only if this holds.
    One expert per token with gate 1 says nothing about the scores, so it does not pass.
    """
    chosen = routing.scores.gather(-1, routing.expert_ids)
    best = routing.choice_scores.topk(chosen.shape[-1], dim=-1).values
    if not torch.allclose(routing.choice_scores.gather(-1, routing.expert_ids), best):
        return False
    scale = (routing.gates / chosen).mean()
    if torch.allclose(routing.gates, scale * chosen, rtol=0.02):
        return True
    shares = [x / x.sum(dim=-1, keepdim=True) for x in (chosen, routing.gates)]
    return chosen.shape[-1] > 1 and torch.allclose(*shares, rtol=0.02)


def _unknown(what: str) -> str:
    known = ", ".join(f"{router} ({models})" for router, models in SUPPORTED.items())
    return f"model: routers of transformers 5 expected ({known}), got {what}"
