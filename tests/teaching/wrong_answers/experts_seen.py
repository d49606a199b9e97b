"""Wrong answers to the exercises of 10_routing."""

import torch
import torch.nn.functional as F

from mini_moe.routing import intervene
from mini_moe.routing.measures import domain_specialisation


def over_layers(ids, domains, n_domains, n_experts):
    shares = domain_specialisation(ids, domains, n_domains, n_experts)
    return shares / shares.sum(dim=0, keepdim=True)


def over_domains(ids, domains, n_domains, n_experts):
    shares = domain_specialisation(ids, domains, n_domains, n_experts)
    return shares / shares.sum(dim=1, keepdim=True)


def neighbours_only(ids, n_experts):
    hot = F.one_hot(ids, n_experts).float()
    pairs = hot[..., :-1, :].flatten(0, -3).mT @ hot[..., 1:, :].flatten(0, -3)
    pairs = pairs.sum(0) if pairs.ndim == 3 else pairs
    pairs = pairs + pairs.mT
    alone = hot.flatten(0, -2).sum(0)
    return (pairs + torch.diag(alone)) / alone[:, None]


def over_the_union(early, late):
    same = (early[..., :, None] == late[..., None, :]).any(-1).sum(-1)
    return (same / (2 * early.shape[-1] - same)).mean(-1)


def pairs_of(ids, n_experts):
    chosen = F.one_hot(ids, n_experts).sum(dim=-2).float()
    return chosen.mT @ chosen


def first_choices_together(ids, n_experts):
    pairs = pairs_of(ids, n_experts)
    return pairs / ids.shape[-2]


def loss_of(model, tokens):
    with torch.no_grad():
        logits = model(tokens[:, :-1]).flatten(0, 1)
        return float(F.cross_entropy(logits, tokens[:, 1:].flatten()))


def the_same_model_twice(model, tokens, layer, expert):
    before = loss_of(model, tokens)
    with intervene(model, off={(layer, expert)}):
        return loss_of(model, tokens) - before


def both_changed(model, tokens, layer, expert):
    with intervene(model, off={(layer, expert)}) as changed:
        return loss_of(changed, tokens) - loss_of(changed, tokens)


def after_minus_before(model, tokens, layer, expert):
    before = loss_of(model, tokens)
    with intervene(model, off={(layer, expert)}) as changed:
        return loss_of(changed, tokens) - before


def without_shift(model, tokens, layer, expert):
    def loss(model):
        return float(F.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten()))

    with torch.no_grad():
        before = loss(model)
        with intervene(model, off={(layer, expert)}) as changed:
            return loss(changed) - before


WRONG = {
    "domain_specialisation": {
        "normalises over layers": (over_layers, "over the layers"),
        "normalises over domains": (over_domains, "over the domains"),
        "divides by choices instead of tokens": (
            lambda i, d, n, e: domain_specialisation(i, d, n, e) / i.shape[-1],
            "sum to 1 over the experts",
        ),
        "first choices only": (
            lambda i, d, n, e: domain_specialisation(i[..., :1], d, n, e),
            "sum to 1 over the experts",
        ),
        "divides by all tokens": (
            lambda i, d, n, e: (
                domain_specialisation(i, d, n, e)
                * torch.bincount(d, minlength=n)[:, None]
                / i.shape[1]
            ),
            "your shares",
        ),
        "experts before domains": (
            lambda i, d, n, e: domain_specialisation(i, d, n, e).mT,
            "(layers, domains, experts)",
        ),
        "chance whatever was chosen": (
            lambda i, d, n, e: torch.full((len(i), n, e), i.shape[-1] / e),
            "your shares",
        ),
    },
    "coactivation": {
        "neighbours in rank only": (neighbours_only, "not only neighbours"),
        "divides by all tokens": (first_choices_together, "divide row i"),
        "divides columns instead of rows": (
            lambda i, n: pairs_of(i, n) / pairs_of(i, n).diagonal(dim1=-2, dim2=-1)[..., None, :],
            "divide row i",
        ),
        "counts instead of shares": (pairs_of, "must be 1, yours is 2"),
        "an empty diagonal": (
            lambda i, n: (
                pairs_of(i, n)
                / pairs_of(i, n).diagonal(dim1=-2, dim2=-1)[..., None]
                * (1 - torch.eye(n))
            ),
            "your table",
        ),
    },
    "saturation": {
        "compares rank by rank": (
            lambda a, b: (a == b).float().mean(dim=(-2, -1)),
            "only their order differs",
        ),
        "divides by the union": (
            over_the_union,
            "union",
        ),
        "any common expert counts in full": (
            lambda a, b: (a[..., :, None] == b[..., None, :]).any(-1).any(-1).float().mean(dim=-1),
            "0.5 expected, got 1",
        ),
        "first choices only": (
            lambda a, b: (a[..., 0] == b[..., 0]).float().mean(dim=-1),
            "only their order differs",
        ),
        "all layers in one number": (
            lambda a, b: (a[..., :, None] == b[..., None, :]).any(-1).float().mean(),
            "your saturation",
        ),
    },
    "choice_margin": {
        "to the very last": (
            lambda s, k: s.topk(k, dim=-1).values[..., -1] - s.min(dim=-1).values,
            "0.05 expected",
        ),
        "between the first two": (
            lambda s, k: s.topk(2, dim=-1).values.diff(dim=-1).abs()[..., 0],
            "first and the second choice",
        ),
        "from the best": (
            lambda s, k: s.max(dim=-1).values - s.topk(k + 1, dim=-1).values[..., -1],
            "first choice and the first one left out",
        ),
        "turned round": (
            lambda s, k: s.topk(k + 1, dim=-1).values[..., -1] - s.topk(k, dim=-1).values[..., -1],
            "higher score",
        ),
        "one place too far": (
            lambda s, k: s.topk(k + 1, dim=-1).values[..., -1] - s.sort(dim=-1).values[..., 0],
            "third and the fourth",
        ),
        "zero": (lambda s, k: torch.zeros(s.shape[:-1]), "0.05 expected"),
    },
    "chance_percent": {
        "a fraction": (0.03125, "hundred times"),
        "experts instead of a share": (0.25, "share of the 8"),
        "the lesson's model": (25, "16 experts"),
        "OLMoE's": (12.5, "OLMoE"),
        "both routers squared": (0.0977, "too low"),
    },
    "knock_out_cost": {
        "always the first layer": (
            lambda model, tokens, layer, expert: after_minus_before(model, tokens, 1, expert),
            "another layer",
        ),
        "measures the same model twice": (
            the_same_model_twice,
            "one loss must be that of `changed`",
        ),
        "measures the changed model twice": (both_changed, "one loss must be that of `changed`"),
        "turned round": (lambda *given: -after_minus_before(*given), "sign"),
        "the sum": (
            lambda model, tokens, layer, expert: (
                after_minus_before(model, tokens, layer, expert) * (tokens.numel() - len(tokens))
            ),
            "the mean is asked for",
        ),
        "predicts the token it sees": (without_shift, "the target is the next token"),
        "another expert": (
            lambda model, tokens, layer, expert: after_minus_before(
                model, tokens, layer, (expert + 1) % 4
            ),
            "without expert 0",
        ),
        "a ratio": (
            lambda model, tokens, layer, expert: (
                after_minus_before(model, tokens, layer, expert) / loss_of(model, tokens)
            ),
            "without expert 0",
        ),
    },
}
