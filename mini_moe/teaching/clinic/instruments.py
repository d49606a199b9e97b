"""What you can measure on a patient without reading its code. Measuring changes nothing."""

import copy
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from mini_moe.model import Routing
from mini_moe.model.router import Router
from mini_moe.random_numbers import OwnRandomNumbers
from mini_moe.routing import expert_load, max_violation, noise_floor
from mini_moe.routing.intervene import intervene, moe_layers
from mini_moe.routing.metrics import dead_experts, load_entropy
from mini_moe.teaching.clinic.patient import Patient, both_losses

PULLED = 1e-10  # a smaller gradient on one score is rounding error


class Row(NamedTuple):
    """One number from one instrument, and what it must be, if that is known in advance."""

    what: str
    value: int | float
    rule: str = ""


def measure(patient: Patient, instrument: str, tokens: Int[Tensor, "batch length"]) -> list[Row]:
    """Apply one instrument to a copy of the patient, on rows of tokens, in evaluation mode.

    Raises: ValueError for an instrument that does not exist.
    """
    if instrument not in INSTRUMENTS:
        raise ValueError(f"instrument={instrument!r}: one of {', '.join(INSTRUMENTS)} expected")
    subject = patient.copied(copy.deepcopy(patient.model))
    with OwnRandomNumbers(0):
        return INSTRUMENTS[instrument](subject, tokens)


def loss(patient: Patient, tokens: Tensor) -> list[Row]:
    """Measure nats per token in training and on unseen text."""
    last = patient.losses[-10:]
    unseen = both_losses(patient, tokens)[0].item()
    return [Row("training, last ten steps", sum(last) / len(last)), Row("unseen text", unseen)]


def load(patient: Patient, tokens: Tensor) -> list[Row]:
    """Measure how evenly the experts are used, compared with chance."""
    routing = _routing(patient, tokens)
    share = expert_load(routing.expert_ids, routing.scores.shape[-1])
    floor = noise_floor(len(share), routing.expert_ids.numel() / len(share))
    return [
        Row("MaxVio", max_violation(share).item(), f"chance: {floor:.2f}"),
        Row("entropy", load_entropy(share).item(), "1 is even"),
        Row("experts nobody chose", dead_experts(share).item(), "0"),
    ]


def gradients(patient: Patient, tokens: Tensor) -> list[Row]:
    """Measure each loss's gradient norm on the router's weights (without the factor α)."""
    language, balance, _ = both_losses(patient, tokens)
    weight = _router(patient).weight
    return [
        Row("of the language loss", _gradient(language, weight).norm().item(), "above 0"),
        Row("of the balance loss", _gradient(balance, weight).norm().item(), "above 0"),
    ]


def reach(patient: Patient, tokens: Tensor) -> list[Row]:
    """Measure what share of all tokens × experts scores each loss pulls up or down.

    The language loss sees only the chosen experts. The balance loss must see them all, or an
    expert that no token chooses could never recover.
    """
    language, balance, (routing, *_) = both_losses(patient, tokens)
    chosen = 100 * routing.expert_ids.shape[-1] / routing.scores.shape[-1]
    rules = {"language": f"{chosen:g}, the chosen", "balance": "100"}
    rows = []
    for name, value in (("language", language), ("balance", balance)):
        pulled = _gradient(value, routing.logits).abs() > PULLED
        share = 100 * pulled.float().mean().item()
        rows.append(Row(f"scores the {name} loss pulls at, %", share, rules[name]))
    return rows


def gates(patient: Patient, tokens: Tensor) -> list[Row]:
    """Measure the weights that the chosen experts' outputs are multiplied by."""
    weights = _routing(patient, tokens).gates
    total, scale = weights.sum(dim=-1), f"{patient.model.config.route_scale:g}"
    return [
        Row("smallest gate", weights.min().item()),
        Row("largest gate", weights.max().item()),
        Row("smallest sum of a token", total.min().item(), scale),
        Row("largest sum of a token", total.max().item(), scale),
    ]


def scores(patient: Patient, tokens: Tensor) -> list[Row]:
    """Measure the scores that the router gives every expert before choosing."""
    given = _routing(patient, tokens).scores
    total, rule = given.sum(dim=-1), "sigmoids: no fixed sum"
    return [
        Row("smallest sum over all experts", total.min().item(), rule),
        Row("largest sum over all experts", total.max().item(), rule),
        Row("largest score", given.max().item(), "at most 1"),
    ]


def balance_loss(patient: Patient, tokens: Tensor) -> list[Row]:
    """Evaluate the balance loss on this text and on two synthetic routings with known values."""
    top_k, experts = patient.model.config.top_k, patient.model.config.n_routed_experts
    turns = torch.arange(experts)[:, None] + torch.arange(top_k)
    even = torch.full((experts, experts), 1e-6).scatter(-1, turns % experts, 0.9)
    collapsed = even[:1].repeat(experts, 1)
    value = patient.balance_loss
    here = value(_routing(patient, tokens).scores, top_k, len(tokens)).item()
    return [
        Row("of this text", here, "1 is even"),
        Row("of an invented even routing", value(even, top_k, 1).item(), "1"),
        Row("of an invented collapse", value(collapsed, top_k, 1).item(), f"{experts / top_k:g}"),
    ]


def bias(patient: Patient, tokens: Tensor) -> list[Row]:
    """Measure the size of the biases, and what happens when all rise by the same amount.

    Relative to the others, every expert is then as attractive as before: nothing may change.
    """
    (layer,) = moe_layers(patient.model)
    experts = patient.model.config.n_routed_experts
    kept = _router(patient).e_score_correction_bias.clone()
    before = _routing(patient, tokens)
    _router(patient).e_score_correction_bias.copy_(kept)
    with intervene(patient.model, bias={layer: [0.1] * experts}) as raised:
        after = _routing(patient.copied(raised), tokens)
    same = (before.expert_ids == after.expert_ids).all(dim=-1)
    moved = (before.gates - after.gates)[same].abs().max().item()
    return [
        Row("largest bias", kept.abs().max().item(), "above 0"),
        Row("gates move when every bias rises by 0.1", moved, "0"),
    ]


def evaluation(patient: Patient, tokens: Tensor) -> list[Row]:
    """Read the same text twice in evaluation mode and compare."""
    router = _router(patient)
    before = router.e_score_correction_bias.clone()
    with torch.no_grad():
        first, second = (patient.model(tokens[:, :-1]) for _ in range(2))
    moved = (router.e_score_correction_bias - before).abs().max().item()
    return [
        Row("logits of two runs differ by", (first - second).abs().max().item(), "0"),
        Row("biases move by", moved, "0"),
    ]


INSTRUMENTS: dict[str, Callable[[Patient, Tensor], list[Row]]] = {
    "loss": loss,
    "load": load,
    "gradients": gradients,
    "reach": reach,
    "gates": gates,
    "scores": scores,
    "balance loss": balance_loss,
    "bias": bias,
    "evaluation": evaluation,
}


def _router(patient: Patient) -> Router:
    """Return the router of the only layer with experts."""
    (moe,) = moe_layers(patient.model).values()
    return moe.gate


@torch.no_grad()
def _routing(patient: Patient, tokens: Tensor) -> Routing:
    """Return that layer's decisions; the seed is fixed, so noise is the same at every call."""
    routings: list[Routing] = []
    with OwnRandomNumbers(0):
        patient.model.hidden(tokens[:, :-1], routings=routings)
    return routings[0]


def _gradient(value: Tensor, of: Tensor) -> Tensor:
    """Return the gradient, or zeros if the value doesn't depend on `of`."""
    if not value.requires_grad:
        return torch.zeros_like(of)
    (found,) = torch.autograd.grad(value, [of], retain_graph=True, allow_unused=True)
    return torch.zeros_like(of) if found is None else found
