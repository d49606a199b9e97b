"""What an expert is for, asked by switching it off: cause instead of correlation."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mini_moe.arguments import integers, whole
from mini_moe.model import Transformer
from mini_moe.routing.intervene import intervene, moe_layers

PASSAGES_AT_ONCE = 8  # the probabilities of every next token are held twice


@dataclass(frozen=True)
class Effects:
    """What each knock-out does to each label's passages; all in means over their tokens."""

    loss_before: Float[Tensor, "labels"]  # nats a token
    loss_change: Float[Tensor, "knock_outs labels"]  # after − before, nats a token
    error: Float[Tensor, "knock_outs labels"]  # standard error of loss_change, over passages
    divergence: Float[Tensor, "knock_outs labels"]  # KL(before ‖ after) of the next token, nats
    total_variation: Float[Tensor, "knock_outs labels"]  # ½ Σ |before − after|, 0 to 1


@torch.no_grad()
def knock_out_effects(
    model: Transformer,
    passages: Int[Tensor, "rows seq"],
    labels: Int[Tensor, "rows"],
    knock_outs: Sequence[Collection[tuple[int, int]]],
    n_labels: int,
) -> Effects:
    """Run the passages with each set of (layer, expert) switched off, and compare.

    The model is really run again: tokens that would choose a switched-off expert take their next
    best, and later layers see the difference. Chance level: the effect of other experts of that
    layer (knock out all of them, or some as controls). Noise floor: `error`, the standard error
    over passages of one label; a change within two of them says nothing.
    Source: DeepSeekMoE, arXiv 2401.06066 §4.5, which masks the experts most used.
    Raises: ValueError for a label with fewer than two passages, passages of fewer than two tokens,
    and as `intervene` does.
    """
    moe_layers(model)  # refuses what is no mixture of experts
    passages, labels = integers("passages", passages), integers("labels", labels)
    if passages.ndim != 2 or labels.shape != passages.shape[:1] or bool((labels < 0).any()):
        raise ValueError(
            f"labels: one number of at least 0 for each of the passages [rows, seq] expected, got "
            f"{list(labels.shape)} for {list(passages.shape)}"
        )
    sizes = torch.bincount(labels, minlength=whole("n_labels", n_labels, 1))
    if len(sizes) != n_labels or int(sizes.min()) < 2 or passages.shape[1] < 2:
        raise ValueError(
            f"passages: of two tokens or more, two or more for each of {n_labels} labels, expected"
            f", got {passages.shape[1]} tokens and {sizes.tolist()} passages"
        )
    on_device = passages.to(model.embed_tokens.weight.device)
    parts = [_run(model, rows, knock_outs) for rows in on_device.split(PASSAGES_AT_ONCE)]
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
    """Loss before [rows], and of each knock-out the change, KL and variation [knock_outs, rows]."""
    before = _log_probabilities(model, passages)
    found = torch.zeros(3, len(knock_outs), len(passages), device=before.device)
    for place, off in enumerate(knock_outs):
        with intervene(model, off=off) as changed:
            after = _log_probabilities(changed, passages)
        found[:, place] = torch.stack(_compare(before, after, passages))
    return _losses(before, passages), *found


def _log_probabilities(model: Transformer, passages: Tensor) -> Tensor:
    """Of every next token, after all tokens of a passage but the last."""
    return model(passages[:, :-1]).float().log_softmax(dim=-1)


def _losses(log_probabilities: Tensor, passages: Tensor) -> Tensor:
    """Mean nats a token, one number a passage."""
    return -log_probabilities.gather(-1, passages[:, 1:, None]).mean(dim=(1, 2))


def _compare(before: Tensor, after: Tensor, passages: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Change of loss, KL divergence and total variation, each one number a passage."""
    was, now = before.exp(), after.exp()
    divergence = (was * (before - after)).sum(dim=-1).mean(dim=-1)
    variation = (was - now).abs().sum(dim=-1).mean(dim=-1) / 2
    return _losses(after, passages) - _losses(before, passages), divergence, variation


def _mean(values: Tensor, labels: Tensor, sizes: Tensor) -> Tensor:
    """Mean over the passages of each label; values [..., rows]."""
    sums = values.new_zeros(*values.shape[:-1], len(sizes)).index_add(-1, labels, values)
    return sums / sizes


def _standard_error(values: Tensor, labels: Tensor, sizes: Tensor) -> Tensor:
    """Of those means: √(variance / passages), variance with n − 1."""
    off = values - _mean(values, labels, sizes)[..., labels]
    return (_mean(off.square(), labels, sizes) / (sizes - 1)).sqrt()
