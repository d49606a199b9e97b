"""Run a model with routers that choose differently, without changing the model itself."""

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from mini_moe.arguments import items, number, refused, whole
from mini_moe.config import ModelConfig
from mini_moe.model import Transformer
from mini_moe.model.moe import MoE
from mini_moe.model.router import Router
from mini_moe.routing.twin import shadow, twin

OFF = -1e6  # added to a score of at most 1; finite, so sums of group scores keep their order
PAIRS = "(layer, expert) pairs"


@contextmanager
def intervene(
    model: Transformer,
    *,
    off: Collection[tuple[int, int]] = (),
    shared_off: Collection[int] = (),
    bias: Mapping[int, Tensor | Sequence[float]] | None = None,
    top_k: int | None = None,
    temperature: int | float = 1.0,
) -> Iterator[Transformer]:
    """Yield a model whose routing is changed: `with intervene(model, off={(2, 5)}) as changed:`.

    off: (layer, expert) pairs that no token may choose; tokens take their next best expert.
    shared_off: layers whose shared experts contribute nothing.
    bias: for each layer, what to add to the bias of its experts, one number per expert.
    top_k: experts per token, in every layer; gates are computed from those experts only.
    temperature: divides the logits of every router.

    `layer` is the model's layer index. `model` itself isn't changed, so other code can keep
    running or training it, and several interventions on one model can be active at once; to
    combine two, intervene on `changed`. `changed` runs the same code on the same weights; only
    bias, router temperature and configuration differ. With
    `temperature`, `off` or `bias` the routers are those at entry: training meanwhile doesn't reach
    them. `save_hf` writes the unchanged weights, and refuses a changed `top_k`.
    Switching an expert off after training, without retraining, is the ablation of DeepSeekMoE,
    arXiv 2401.06066 §4.5.

    Raises: ValueError for a layer without experts, an expert out of range, fewer experts left than
    a token must choose, a bias of the wrong size or not finite, a top_k or temperature out of
    range, or an argument of the wrong type.
    """
    layers = moe_layers(model)
    temperature = number("temperature", temperature, above=0)
    top_k = None if top_k is None else whole("top_k", top_k, 1)
    silent = _silent_experts(off, layers)
    without_shared = {
        _checked_layer("shared_off", layer, layers)
        for layer in items("shared_off", shared_off, "layers")
    }
    added = _added_bias(bias, layers)
    changed = twin(model)
    for layer, moe in moe_layers(changed).items():
        _change_router(moe.gate, layer, silent[layer], added.get(layer), top_k, temperature)
        if layer in without_shared:
            shadow(moe, "shared_experts", None)
    yield changed


def moe_layers(model: Transformer) -> dict[int, MoE]:
    """Return a model's MoE modules by layer index, without those of MTP modules.

    Raises: ValueError for a model without any, or one that is not a Transformer.
    """
    if not isinstance(model, Transformer):
        raise ValueError(f"model: a mini_moe.Transformer expected, got {type(model).__name__}")
    found = {n: block.mlp for n, block in enumerate(model.layers) if block.is_moe}
    if not found:
        raise ValueError("model: a mixture of experts expected, this one has only dense layers")
    return found


def _change_router(
    router: Router,
    layer: int,
    silent: set[int],
    added: Tensor | None,
    top_k: int | None,
    temperature: float,
) -> None:
    """Apply the changes to a twin's router."""
    if top_k is not None:
        router.config = dataclasses.replace(router.config, top_k=top_k)
    old = router.e_score_correction_bias
    before = set() if old is None else set((old < OFF / 2).nonzero()[:, 0].tolist())
    if silent or before:  # off already, where interventions are nested
        _check_enough_left(router.config, layer, silent | before)
    if temperature != 1:
        weight = router.weight.detach()
        wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
        shadow(router, "weight", wide / temperature)
    if silent or added is not None:
        new = torch.zeros_like(router.weight[:, 0], dtype=torch.float32) if old is None else old
        new = new.detach().clone() if added is None else new.detach() + added.to(new)
        new[sorted(silent)] += OFF
        shadow(router, "e_score_correction_bias", new)


def _silent_experts(off: Any, layers: dict[int, MoE]) -> dict[int, set[int]]:
    """Map each layer to the experts that no token may choose."""
    silent: dict[int, set[int]] = {layer: set() for layer in layers}
    for pair in items("off", off, PAIRS):
        place = items("off", pair, PAIRS)
        if len(place) != 2:
            raise refused("off", pair, "a (layer, expert) pair")
        layer = _checked_layer("off", place[0], layers)
        expert, n_experts = (
            whole("off: expert", place[1]),
            layers[layer].gate.config.n_routed_experts,
        )
        if not 0 <= expert < n_experts:
            raise ValueError(f"off: expert {expert} of layer {layer}: below {n_experts} expected")
        silent[layer].add(expert)
    return silent


def _added_bias(bias: Any, layers: dict[int, MoE]) -> dict[int, Tensor]:
    """Map each layer to what is added to its bias, one number per expert."""
    if bias is None:
        return {}
    if not isinstance(bias, Mapping):
        raise refused("bias", bias, "a mapping of layers to one number per expert")
    found = {}
    for key, values in bias.items():
        layer = _checked_layer("bias", key, layers)
        n_experts = layers[layer].gate.config.n_routed_experts
        found[layer] = _checked_bias(values, layer, n_experts)
    return found


def _checked_layer(name: str, value: Any, layers: dict[int, MoE]) -> int:
    layer = whole(f"{name}: layer", value)
    if layer not in layers:
        raise ValueError(f"{name}: layer={layer}: one with experts expected, {sorted(layers)}")
    return layer


def _checked_bias(added: Tensor | Sequence[float], layer: int, n_experts: int) -> Tensor:
    expected = f"bias of layer {layer}: {n_experts} finite numbers expected, got "
    try:
        values = torch.as_tensor(added, dtype=torch.float32).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{expected}{error}") from None
    if values.shape != (n_experts,) or not torch.isfinite(values).all():
        raise ValueError(f"{expected}{list(values.shape)} {values.flatten()[:4].tolist()}")
    return values


def _check_enough_left(config: ModelConfig, layer: int, silent: set[int]) -> None:
    n_experts, size = config.n_routed_experts, config.n_routed_experts // config.n_expert_groups
    alive = [
        sum(expert not in silent for expert in range(first, first + size))
        for first in range(0, n_experts, size)
    ]
    fewest = sum(sorted(alive)[: config.top_k_groups])  # the groups a token could be left with
    if fewest < config.top_k:
        raise ValueError(
            f"off: layer {layer}: at least top_k={config.top_k} experts left expected, got as few "
            f"as {fewest}"
        )
