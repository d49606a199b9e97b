"""Wrong answers to the exercises of 07_balance."""

import math

import torch

from mini_moe.teaching.part2_train.balancing import leaking_tokens, proportional_update
from mini_moe.training.losses import sequence_balance_loss, switch_loss


def by_sign(bias, counts, rate):
    """The update of 06_train."""
    return bias + rate * torch.sign(counts.float().mean() - counts)


def undivided(bias, counts, rate):
    """The error in tokens."""
    return bias + rate * (counts.float().mean() - counts)


def per_batch_size(bias, counts, rate):
    """Right at six tokens an expert only."""
    return bias + rate * (counts.float().mean() - counts) / 6


def by_scores_alone(scores, expert_ids):
    """Counts the best scores instead of what was chosen."""
    return sequence_balance_loss(scores, expert_ids.shape[-1], 1)


def per_token(scores, expert_ids):
    """f per token instead of per choice."""
    return switch_loss(scores, expert_ids) * expert_ids.shape[-1]


def without_unchosen(scores, expert_ids):
    """As many experts as the highest number that occurs."""
    counts = torch.bincount(expert_ids.flatten())
    share = (scores / scores.sum(-1, keepdim=True)).mean(0)[: len(counts)]
    return len(counts) * (counts / expert_ids.numel() * share).sum()


def unnormalised(scores, expert_ids):
    """P from the bare scores."""
    counts = torch.bincount(expert_ids.flatten(), minlength=scores.shape[-1])
    return scores.shape[-1] * (counts / expert_ids.numel() * scores.mean(0)).sum()


def with_signs(before, after, changed):
    """Looks at logits that rose only."""
    return (after - before).amax(-1)[:changed].gt(1e-4).nonzero().flatten().tolist()


def bit_by_bit(before, after, changed):
    """Takes rounding for a leak."""
    return (before != after).any(-1)[:changed].nonzero().flatten().tolist()


def everywhere(before, after, changed):
    """Does not stop at the changed token."""
    return leaking_tokens(before, after, len(before))


def with_changed(before, after, changed):
    """Includes the changed token."""
    return leaking_tokens(before, after, changed + 1)


def whole_rows(before, after, changed):
    """Only where every number differs."""
    return (before - after).abs().amin(-1)[:changed].gt(1e-4).nonzero().flatten().tolist()


def leaking_where(size, threshold=1e-4):
    """Detect leaks with a different change of the token, or a different threshold."""

    def leaking(before, after, changed):
        moved = size((before - after).abs())[:changed]
        return moved.gt(threshold).nonzero().flatten().tolist()

    return leaking


def around_median(bias, counts, rate):
    """The median in place of the mean."""
    middle = counts.float().median()
    return bias + rate * (middle - counts) / middle


M = 2 * math.log(256) / 0.04**2

WRONG = {
    "load_variation": {
        "as of a sample": (lambda load: load.std(-1) / load.mean(-1), "divides by N − 1"),
        "not divided by the mean": (
            lambda load: load.std(-1, correction=0),
            "the standard deviation is 0.25",
        ),
        "variance": (
            lambda load: load.var(-1, correction=0) / load.mean(-1),
            "mean load 0.25, so 1 expected",
        ),
        "over all layers": (
            lambda load: load.std(correction=0) / load.mean(),
            "two layers at once",
        ),
        "expects shares": (
            lambda load: load.std(-1, correction=0) * load.shape[-1],
            "counts instead of shares",
        ),
    },
    "tokens_for_floor": {
        "for one expert": (round(M), "choices for one expert"),
        "choices, not tokens": (round(M * 256), "each token makes 8"),
        "times top_k": (round(M * 8), "divide by top_k"),
        "not squared": (round(M * 0.04 * 32), "squared"),
        "a factor of two": (round(M * 16), "too low"),
    },
    "switch_loss": {
        "not times the experts": (
            lambda s, ids: switch_loss(s, ids) / s.shape[-1],
            "times the number of experts is missing",
        ),
        "per token": (per_token, "each token makes two"),
        "by scores alone": (by_scores_alone, "a bias chose other experts"),
        "bare scores": (unnormalised, "you give 3.4"),
        "forgets idle experts": (without_unchosen, "you give"),
        "no gradient": (lambda s, ids: switch_loss(s.detach(), ids), "no gradient"),
    },
    "proportional_update": {
        "the sign": (by_sign, "that is the sign"),
        "the wrong way": (lambda b, c, r: proportional_update(b, c, -r), "must fall"),
        "in tokens": (undivided, "divide the error by the mean count"),
        "for one size of batch": (per_batch_size, "ten times the counts"),
        "forgets the old bias": (
            lambda b, c, r: proportional_update(torch.zeros_like(b), c, r),
            "a bias that is not zero",
        ),
        "the median": (around_median, "counts whose mean is not their median"),
    },
    "leaking_tokens": {
        "the changed token too": (with_changed, "the changed token and those after it may differ"),
        "later tokens too": (everywhere, "the changed token and those after it may differ"),
        "rising logits only": (with_signs, "you find no leak"),
        "only whole rows": (whole_rows, "you find no leak"),
        "bit by bit": (bit_by_bit, "is rounding, not a leak"),
        "sum over the vocabulary": (leaking_where(lambda d: d.sum(-1)), "only position 0"),
        "mean over the vocabulary": (leaking_where(lambda d: d.mean(-1)), "only position 0"),
        "norm over the vocabulary": (leaking_where(lambda d: d.norm(dim=-1)), "only position 0"),
        "beyond 1e-5": (leaking_where(lambda d: d.amax(-1), 1e-5), "only position 0"),
        "beyond 1e-3": (leaking_where(lambda d: d.amax(-1), 1e-3), "only position 0"),
        "never finds one": (lambda before, after, changed: [], "you find no leak"),
    },
}
