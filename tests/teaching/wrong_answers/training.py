"""Wrong answers to the exercises of 06_train."""

import torch
import torch.nn.functional as F

from mini_moe.teaching.part2_train.training import newton_schulz, update_expert_bias
from mini_moe.training.losses import sequence_balance_loss
from mini_moe.training.optimizer import NEWTON_SCHULZ, learning_rate_factor


def cosine_fall(step, config):
    """A cosine instead of a straight line."""
    x = learning_rate_factor(step, config)
    rising = (step + 1) / (config.warmup_steps + 1) < 1
    return x if rising else 0.5 - 0.5 * float(torch.cos(torch.tensor(x) * torch.pi))


def starts_at_zero(step, config):
    """Divides by warmup_steps, so that the first step learns nothing."""
    rising = step / max(1, config.warmup_steps)
    return min(rising, learning_rate_factor(step, config)) if step < 9 else rising and 1.0


def product(step, config):
    """Multiplies the rise and the fall."""
    rising = min(1.0, (step + 1) / (config.warmup_steps + 1))
    falling = (config.steps - step) / max(1.0, config.decay_fraction * config.steps)
    return rising * min(1.0, falling)


def by_size(bias, counts, rate):
    """Moves in proportion to the error."""
    counts = counts.float()
    return bias + rate * (counts.mean() - counts)


def chosen_scores_only(scores, top_k, n_sequences):
    """P from the chosen scores alone."""
    kept = scores * F.one_hot(scores.topk(top_k).indices, scores.shape[-1]).sum(-2)
    return sequence_balance_loss(kept + 1e-12, top_k, n_sequences)


def per_batch(scores, top_k, n_sequences):
    """One average over all sequences."""
    return sequence_balance_loss(scores, top_k, 1)


def unscaled(scores, top_k, n_sequences):
    """f without experts / top_k."""
    return sequence_balance_loss(scores, top_k, n_sequences) * top_k / scores.shape[-1]


def without_gradient(scores, top_k, n_sequences):
    """Detaches the scores."""
    return sequence_balance_loss(scores.detach(), top_k, n_sequences)


def double_softmax(scores, top_k, n_sequences):
    """Softmax over what are scores already."""
    return sequence_balance_loss(scores.softmax(-1), top_k, n_sequences)


A, B, C = NEWTON_SCHULZ

WRONG = {
    "learning_rate_factor": {
        "always the peak": (lambda step, config: 1.0, "at step 0 you give 1"),
        "starts at nothing": (starts_at_zero, "at step 0 you give 0"),
        "never falls": (
            lambda step, config: min(1.0, (step + 1) / (config.warmup_steps + 1)),
            "at step 75 you give 1; 0.5 expected",
        ),
        "a cosine": (cosine_fall, "at step 99 you give"),
        "rise times fall": (product, "overlap"),
    },
    "newton_schulz": {
        "one power too low": (
            lambda x: A * x + B * x @ x.mT @ x,
            "the singular value 0.5 becomes",
        ),
        "element by element": (lambda x: A * x + B * x**3 + C * x**5, "a wide matrix"),
        "two steps": (lambda x: newton_schulz(newton_schulz(x)), "0.5 becomes"),
        "normalises only": (lambda x: x / x.norm(), "0.5 becomes"),
    },
    "update_expert_bias": {
        "the wrong way": (lambda b, c, r: update_expert_bias(b, c, -r), "must fall"),
        "by the size of the error": (by_size, "-0.4; −0.1 expected"),
        "forgets the rate": (lambda b, c, r: update_expert_bias(b, c, 1.0), "-1; −0.1"),
        "against the median's neighbour": (
            lambda b, c, r: b - r * torch.sign(c - c.float().mean() + 0.5),
            "exactly the mean load moves",
        ),
        "forgets the old bias": (
            lambda b, c, r: update_expert_bias(torch.zeros_like(b), c, r),
            "a bias that is not zero",
        ),
    },
    "sequence_balance_loss": {
        "f without its scale": (unscaled, "you give 0.85"),
        "P of the chosen only": (chosen_scores_only, "you give 2"),
        "over the whole batch": (per_batch, "two sequences"),
        "no gradient": (without_gradient, "no gradient"),
        "double softmax": (double_softmax, "you give"),
    },
}
