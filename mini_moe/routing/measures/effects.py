"""Find out what an expert is for by switching it off: cause instead of correlation."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mini_moe.arguments import integers, whole
from mini_moe.model import Transformer
from mini_moe.routing.intervene import intervene, moe_layers

PASSAGES_AT_ONCE = 8  # memory holds two sets of probabilities over the vocabulary per position


@dataclass(frozen=True)
class Effects:
    """What each knock-out does to the passages of each label, averaged over their tokens."""

    loss_before: Float[Tensor, "labels"]  # nats per token
    loss_change: Float[Tensor, "knock_outs labels"]  # after − before, nats per token
    error: Float[Tensor, "knock_outs labels"]  # standard error of loss_change, over passages
    divergence: Float[Tensor, "knock_outs labels"]  # KL(before ‖ after) of the next token, nats
    total_variation: Float[Tensor, "knock_outs labels"]  # ½ Σ |before − after|, 0 to 1


@torch.no_grad()
def knock_out_effects(
    model: Transformer,
    passages: Int[Tensor, "passages seq"],
    labels: Int[Tensor, "passages"],
    knock_outs: Sequence[Collection[tuple[int, int]]],
    n_labels: int,
) -> Effects:
    """Run the passages with each set of (layer, expert) pairs switched off, and compare.

    Each knock-out is a full run of the model: tokens that would have chosen a switched-off expert
    take their next best, and later layers see the difference. Chance level: the effect of other
    experts in the same layer (knock out all of them, or a few as controls). Noise floor: `error`,
    the standard error over the passages of one label; a change of less than two standard errors
    says nothing.
    Source: DeepSeekMoE, arXiv 2401.06066 §4.5, which masks the most used experts.
    Raises: ValueError for a label with fewer than two passages, passages of fewer than two tokens,
    or whatever `intervene` rejects.
    """
    moe_layers(model)  # raises unless the model is a mixture of experts
    passages, labels = integers("passages", passages), integers("labels", labels)
    if passages.ndim != 2 or labels.shape != passages.shape[:1] or bool((labels < 0).any()):
        raise ValueError(
            f"labels: one number, at least 0, per passage [passages, seq] expected, got "
            f"{list(labels.shape)} for {list(passages.shape)}"
        )
    sizes = torch.bincount(labels, minlength=whole("n_labels", n_labels, 1))
    if len(sizes) != n_labels or int(sizes.min()) < 2 or passages.shape[1] < 2:
        raise ValueError(
            f"passages: at least two tokens each, and two passages for each of {n_labels} labels, "
            f"expected, got {passages.shape[1]} tokens and {sizes.tolist()} passages"
        )
    on_device = passages.to(model.embed_tokens.weight.device)
    parts = [_run(model, batch, knock_outs) for batch in on_device.split(PASSAGES_AT_ONCE)]
    loss, change, divergence, variation = (
        torch.cat(part, dim=-1).to(labels.device) for part in zip(*parts, strict=True)
    )
    return Effects(
        _mean(loss, labels, sizes),
        _mean(change, labels, sizes),
        _standard_error(change, labels, sizes),
        _mean(divergence, labels, sizes),
        _mean(variation, labels, sizes),
    )


def _run(
    model: Transformer, passages: Tensor, knock_outs: Sequence[Collection[tuple[int, int]]]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the loss before [passages], then change, KL and variation [knock_outs, passages]."""
    before = _log_probabilities(model, passages)
    found = torch.zeros(3, len(knock_outs), len(passages), device=before.device)
    for place, off in enumerate(knock_outs):
        with intervene(model, off=off) as changed:
            after = _log_probabilities(changed, passages)
        found[:, place] = torch.stack(_compare(before, after, passages))
    return _losses(before, passages), *found


def _log_probabilities(model: Transformer, passages: Tensor) -> Tensor:
    """Return log p of every next token, after each token of a passage except the last."""
    return model(passages[:, :-1]).float().log_softmax(dim=-1)


def _losses(log_probabilities: Tensor, passages: Tensor) -> Tensor:
    """Return each passage's mean loss in nats per token."""
    return -log_probabilities.gather(-1, passages[:, 1:, None]).mean(dim=(1, 2))


def _compare(before: Tensor, after: Tensor, passages: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return each passage's loss change, KL divergence and total variation."""
    was, now = before.exp(), after.exp()
    divergence = (was * (before - after)).sum(dim=-1).mean(dim=-1)
    variation = (was - now).abs().sum(dim=-1).mean(dim=-1) / 2
    return _losses(after, passages) - _losses(before, passages), divergence, variation


def _mean(values: Tensor, labels: Tensor, sizes: Tensor) -> Tensor:
    """Average values [..., passages] over the passages of each label."""
    sums = values.new_zeros(*values.shape[:-1], len(sizes)).index_add(-1, labels, values)
    return sums / sizes


def _standard_error(values: Tensor, labels: Tensor, sizes: Tensor) -> Tensor:
    """Return the standard error of those means: √(variance / n), variance with n − 1."""
    off = values - _mean(values, labels, sizes)[..., labels]
    return (_mean(off.square(), labels, sizes) / (sizes - 1)).sqrt()
