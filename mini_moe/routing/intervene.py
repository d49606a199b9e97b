"""Change what a model's routers do, for as long as a `with` block lasts."""

import dataclasses
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from mini_moe.model import Transformer
from mini_moe.model.moe import MoE

OFF = -1e6  # added to a score of at most 1; finite, so that sums of group scores stay ordered


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
    """Inside, the model really runs so; afterwards it is bit for bit what it was.

    off: (layer, expert) pairs that no token may choose; the token takes its next best.
    shared_off: layers whose shared experts add nothing.
    bias: layer → what is added to its experts' bias, one number an expert.
    top_k: experts a token chooses, in every layer; the gates are made from those.
    temperature: divides the logits of every router.

    `layer` is the model's layer index. Weights stay as they are: the changes are of bias,
    temperature and configuration, the same code runs. Switching an expert off after training,
    without training again, is the ablation of DeepSeekMoE, arXiv 2401.06066 §4.5.
    Raises: ValueError for a layer without experts, an expert out of range, fewer experts left than
    a token must choose, a bias of another size or not finite, and a top_k or temperature out of
    range.
    """
    layers = moe_layers(model)
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"temperature={temperature}: a finite number above 0 expected")
    changes = {}
    for layer in {*(layer for layer, _ in off), *shared_off, *(bias or {})}:
        if layer not in layers:
            raise ValueError(f"layer={layer}: one with experts expected, {sorted(layers)}")
    for layer, moe in layers.items():
        silent = {expert for at, expert in off if at == layer}
        added = None if bias is None else bias.get(layer)
        changes[moe] = _router_changes(moe.gate, layer, silent, added, top_k, temperature)
    kept = {moe: (moe.shared_experts, _state(moe.gate)) for moe in layers.values()}
    try:
        for layer, moe in layers.items():
            for name, value in changes[moe].items():
                setattr(moe.gate, name, value)
            if layer in shared_off:
                moe.shared_experts = None
        yield model
    finally:
        for moe, (shared, state) in kept.items():
            moe.shared_experts = shared
            for name, value in state.items():
                setattr(moe.gate, name, value)


def moe_layers(model: Transformer) -> dict[int, MoE]:
    """The mixtures of experts of a model by layer index, MTP modules left out.

    Raises: ValueError for a model without any.
    """
    found = {n: block.mlp for n, block in enumerate(model.layers) if block.is_moe}
    if not found:
        raise ValueError("model: a mixture of experts expected, this one has only dense layers")
    return found


def _state(router: nn.Module) -> dict:
    return {name: getattr(router, name) for name in ("config", "weight", "e_score_correction_bias")}


def _router_changes(
    router: nn.Module, layer: int, silent: set[int], added: Tensor | Sequence[float] | None,
    top_k: int | None, temperature: int | float,
) -> dict:  # fmt: skip
    """The attributes that make one router behave as asked."""
    changes = {}
    config = router.config
    if top_k is not None:
        config = changes["config"] = dataclasses.replace(config, top_k=top_k)
    if temperature != 1:
        scaled = router.weight.detach() / temperature
        changes["weight"] = nn.Parameter(scaled, requires_grad=False)
    if silent or added is not None:
        old = router.e_score_correction_bias
        new = torch.zeros(config.n_routed_experts) if old is None else old.clone()
        if added is not None:
            new = new + _checked_bias(added, layer, config.n_routed_experts).to(new)
        _check_enough_left(config, layer, silent)
        new[sorted(silent)] += OFF
        changes["e_score_correction_bias"] = new.to(router.weight.device)
    return changes


def _checked_bias(added: Tensor | Sequence[float], layer: int, n_experts: int) -> Tensor:
    values = torch.as_tensor(added, dtype=torch.float32)
    if values.shape != (n_experts,) or not torch.isfinite(values).all():
        raise ValueError(
            f"bias of layer {layer}: {n_experts} finite numbers expected, got "
            f"{list(values.shape)} {values.flatten()[:4].tolist()}"
        )
    return values


def _check_enough_left(config, layer: int, silent: set[int]) -> None:
    n_experts, size = config.n_routed_experts, config.n_routed_experts // config.n_expert_groups
    for expert in silent:
        if not 0 <= expert < n_experts:
            raise ValueError(f"off: expert {expert} of layer {layer}: below {n_experts} expected")
    alive = [
        sum(expert not in silent for expert in range(first, first + size))
        for first in range(0, n_experts, size)
    ]
    fewest = sum(sorted(alive)[: config.top_k_groups])  # the groups a token could be left with
    if fewest < config.top_k:
        raise ValueError(
            f"off: layer {layer} may be left with {fewest} experts, a token chooses {config.top_k}"
        )
