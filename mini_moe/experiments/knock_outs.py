"""Switch experts off after training, without retraining, and measure the loss."""

import statistics
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch

from mini_moe.config import TrainConfig
from mini_moe.device import device_of
from mini_moe.model import Transformer
from mini_moe.routing import intervene
from mini_moe.routing.intervene import moe_layers
from mini_moe.text import Corpus
from mini_moe.training.evaluation import validation_losses

OFF_COUNTS = (1, 2, 4, 8)  # routed experts to switch off per layer
DRAWS = 2  # random choices of that many experts
TOKENS = 8192  # per domain, read by every measurement


def knock_out_losses(
    model: Transformer, load: list[list[float]], corpus: Corpus, config: TrainConfig
) -> list[dict]:
    """Measure validation loss with experts switched off.

    Each result is {"off": what, "count": experts per layer, "loss": nats per token}. First the
    shared expert is off, alone and with one more routed expert in its place, which keeps the FLOPs
    equal; then the most used routed experts of every layer, and as many drawn at random. `load` is
    each expert's share of choices, layer by layer, over the validation text.
    Source: DeepSeekMoE, arXiv 2401.06066 §4.5, which also switches the shared expert off, but masks
    each token's highest-scoring routed experts; here experts are off for all tokens.
    """
    kind = device_of(model).type

    def loss(**changes) -> float:
        autocast = torch.autocast(kind, torch.bfloat16, config.bf16)
        with intervene(model, **changes) as changed, autocast:
            return round(validation_losses(changed, corpus, config.seq_len, TOKENS)["all"], 6)

    layers = sorted(moe_layers(model))
    if [len(shares) for shares in load] != [model.config.n_routed_experts] * len(layers):
        raise ValueError(
            f"load: one share for each of {model.config.n_routed_experts} experts in each of "
            f"{len(layers)} layers expected, got {[len(shares) for shares in load]}"
        )
    results = [{"off": "nothing", "count": 0, "loss": loss()}]
    if model.config.n_shared_experts:
        more = model.config.top_k + 1
        alone = {"off": "shared", "count": 1, "loss": loss(shared_off=layers)}
        replaced = {"off": "shared, one more routed", "count": 1}
        results += [alone, replaced | {"loss": loss(shared_off=layers, top_k=more)}]
    draw = torch.Generator().manual_seed(config.seed)
    for count in OFF_COUNTS:
        most = [torch.tensor(shares).topk(count).indices.tolist() for shares in load]
        results.append(
            {"off": "most used", "count": count, "loss": loss(off=pairs(layers[0], most))}
        )
        for _ in range(DRAWS):
            some = [torch.randperm(len(s), generator=draw)[:count].tolist() for s in load]
            lost = loss(off=pairs(layers[0], some))
            results.append({"off": "random", "count": count, "loss": lost})
    return results


def pairs(first_layer: int, experts: list[list[int]]) -> Collection[tuple[int, int]]:
    """Return (layer, expert) pairs for experts listed layer by layer."""
    return {(first_layer + n, e) for n, layer in enumerate(experts) for e in layer}


def loss_increases(runs: Sequence[Mapping[str, Any]], arm: str) -> dict[str, dict[int, list]]:
    """Return how much each knock-out adds to an arm's loss: {off: {count: [one per seed]}}.

    Several random draws of the same run are averaged first: they don't count as extra seeds.
    Raises: ValueError for an arm without knock-outs.
    """
    taken = [run["knock_outs"] for run in runs if run["arm"] == arm and "knock_outs" in run]
    if not taken:
        raise ValueError(f"arm={arm!r}: an arm with knock_outs expected")
    increases: dict[str, dict[int, list]] = {}
    for results in taken:
        whole = results[0]["loss"]
        for off, count in dict.fromkeys((r["off"], r["count"]) for r in results[1:]):
            losses = [r["loss"] for r in results if (r["off"], r["count"]) == (off, count)]
            places = increases.setdefault(off, {})
            places.setdefault(count, []).append(statistics.fmean(losses) - whole)
    return increases
