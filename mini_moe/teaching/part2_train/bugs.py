"""Exercises of 08_bugs: ten diagnoses, and four sick functions to repair."""

import dataclasses
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mini_moe import presets
from mini_moe.config import ModelConfig
from mini_moe.model import Routing
from mini_moe.model.router import Router, choose, gate_weights, route
from mini_moe.teaching.clinic.clinic import contradiction, disease_of
from mini_moe.teaching.clinic.difference import file_of
from mini_moe.teaching.clinic.diseases import NAMES
from mini_moe.teaching.exercise import Mistake, choice_exercise, exercise
from mini_moe.training import losses
from mini_moe.training.balance import update_expert_bias

FIRST = "Order what you doubt most, and compare with the twin and with what must be."
HINTS = {
    "A": (FIRST, "Gates: what does one token's pair add up to?"),
    "B": (FIRST, "The load is uneven. Who should have evened it? Ask for both gradients."),
    "C": (FIRST, "In training it equals its twin. What happens when it only reads?"),
    "D": (FIRST, "Gates: one number only. What is its derivative?"),
    "E": (FIRST, "Ask the balance loss about routings whose answer you know."),
    "F": (FIRST, "Raise every expert's bias by the same: nothing may change."),
    "G": (FIRST, "Let it read the same text twice."),
    "H": (FIRST, "Both gradients are there. On how many scores does the balance loss pull?"),
    "I": (FIRST, "What do the scores of one token add up to, over all experts?"),
    "X": (FIRST, "Both losses could do their work. Has any bias ever moved?"),
}
DIFFICULTY = dict.fromkeys("BD", 2) | dict.fromkeys("EHI", 4)  # all others 3
MINUTES = {2: 4, 3: 5, 4: 8}
refused: set[str] = set()  # patients of whom a wrong name has been tried


def register_diagnosis(letter: str, hints: tuple[str, ...]) -> None:
    """`check.diagnosis_a("...")`: a wrong name is refused with the reading that contradicts it.

    The first refusal names the instrument only, so that the student looks for the reading.
    """
    disease, difficulty = disease_of(letter), DIFFICULTY.get(letter, 3)
    made = choice_exercise(
        f"diagnosis_{letter.lower()}", disease.name, NAMES, explanation=file_of(disease),
        hints=hints, difficulty=difficulty, importance=5, minutes=MINUTES[difficulty],
    )  # fmt: skip

    @made.probe()
    def _(name):
        if against := contradiction(letter, name, numbers=letter in refused):
            refused.add(letter)
            raise Mistake(against)


for patient, its_hints in HINTS.items():
    register_diagnosis(patient, its_hints)


def config(**changes: object) -> ModelConfig:
    """Eight experts, two a token, gates that sum to one."""
    small = {"n_routed_experts": 8, "top_k": 2, "route_scale": 1.0, "d_model": 16}
    return dataclasses.replace(presets.lab(), **{**small, **changes})


def some_scores(tokens: int = 6) -> Tensor:
    """Scores between 0.1 and 0.9, the same at every call."""
    return torch.rand(tokens, 8, generator=torch.Generator().manual_seed(8)) * 0.8 + 0.1


BIAS = (0.4, -0.3, 0.2, 0.0, -0.4, 0.3, 0.0, -0.1)


def repaired_gates(
    scores: Float[Tensor, "tokens experts"], expert_bias: Float[Tensor, "experts"],
    config: ModelConfig,
) -> tuple[Int[Tensor, "tokens top_k"], Float[Tensor, "tokens top_k"]]:  # fmt: skip
    """The bias chooses; the gates are made from the bare scores."""
    expert_ids = choose(scores + expert_bias, config.top_k)
    return expert_ids, gate_weights(scores.gather(-1, expert_ids), config)


gates_exercise = exercise(
    repaired_gates,
    source=route,
    difficulty=2,
    importance=5,
    minutes=5,
    hints=(
        "The choice is right as it stands. Which scores may the gates be made from?",
        "`scores.gather(-1, expert_ids)` takes each token's scores of its chosen experts.",
    ),
)


@gates_exercise.probe("all biases 0.3 higher")
def _(student):
    bias = torch.tensor(BIAS)
    first, second = (student(some_scores(), b, config())[1] for b in (bias, bias + 0.3))
    moved = (first - second).abs().max().item()
    if moved > 1e-5:
        raise Mistake(
            f"no token chooses differently, and still a gate moves by {moved:.2g}: the bias is "
            "in the gates"
        )


gates_exercise.agrees(
    "two of eight", lambda: (some_scores(), torch.tensor(BIAS), config()), "your answer"
)


@gates_exercise.probe()
def _(student):
    scores = some_scores().requires_grad_()
    gates = student(scores, torch.tensor(BIAS), config())[1]
    if gates.requires_grad:
        (gates * torch.arange(1.0, 3.0)).sum().backward()
    if scores.grad is None or scores.grad.abs().max() < 1e-4:
        raise Mistake("the gates have no gradient: the router cannot learn from them")


def repaired_balance_loss(scores: Float[Tensor, "tokens experts"], top_k: int) -> Float[Tensor, ""]:
    """Σ f · P over the batch, with P over all experts."""
    return losses.sequence_balance_loss(scores, top_k, 1)


balance_exercise = exercise(
    repaired_balance_loss,
    source=losses.sequence_balance_loss,
    difficulty=3,
    importance=5,
    minutes=8,
    hints=(
        "An expert nobody chose has a share too: its score over the sum of all scores.",
        "`scores / scores.sum(dim=-1, keepdim=True)`; no `chosen` in it.",
    ),
)


def pulled_scores(student: Callable) -> Bool[Tensor, "tokens experts"]:
    """On which of `some_scores` the loss pulls, two experts a token."""
    scores = some_scores().requires_grad_()
    value = student(scores, 2)
    if not value.requires_grad:
        raise Mistake("your loss has no gradient at all; P must stay connected to the scores")
    (gradient,) = torch.autograd.grad(value, scores)
    return gradient != 0


def must_reach(pulled: Bool[Tensor, "tokens experts"]) -> None:
    """Every score is reached. Raises: Mistake."""
    if not pulled.all():
        raise Mistake(
            f"your loss pulls at {int(pulled.sum())} of {pulled.numel()} scores; it must reach "
            "those of experts that nobody chose as well"
        )


@balance_exercise.probe("the gradient")
def _(student):
    pulled = pulled_scores(student)
    chosen = torch.zeros_like(pulled).scatter(-1, choose(some_scores(), 2), True)
    if pulled.any() and not pulled[~chosen].any():  # the patient's own fault, by its name
        must_reach(pulled)


balance_exercise.agrees("six tokens, eight experts", lambda: (some_scores(), 2), "your loss")
balance_exercise.agrees("one expert a token", lambda: (some_scores(9), 1), "your loss")


@balance_exercise.probe("the gradient")
def _(student):
    must_reach(pulled_scores(student))


def balanced_forward(
    router: Router, x: Float[Tensor, "tokens d_model"], rate: int | float
) -> Routing:
    """Route, and move the bias against the load, in training only."""
    routing = router(x)
    if router.training:
        counts = torch.bincount(
            routing.expert_ids.flatten(), minlength=router.config.n_routed_experts
        )
        update_expert_bias(router.e_score_correction_bias, counts, rate)
    return routing


forward_exercise = exercise(
    balanced_forward,
    difficulty=2,
    importance=4,
    minutes=5,
    hints=(
        "A module knows whether it is training: `.train()` and `.eval()` set it.",
        "`router.training` is True or False.",
    ),
)


def some_router() -> tuple[Router, Tensor]:
    """A router and forty tokens for it, the same at every call."""
    draw = torch.Generator().manual_seed(3)
    router = Router(config())
    with torch.no_grad():
        router.weight.copy_(torch.randn(8, 16, generator=draw))
    return router, torch.randn(40, 16, generator=draw)


@forward_exercise.probe("in evaluation")
def _(student):
    router, x = some_router()
    student(router.eval(), x, 0.1)
    moved = router.e_score_correction_bias.abs().max().item()
    if moved:
        raise Mistake(f"a bias moves by {moved:.2g} although the model only reads")


@forward_exercise.probe("in training")
def _(student):
    router, x = some_router()
    first = router.train()(x)
    routing = student(router, x, 0.1)
    if not isinstance(routing, tuple) or not torch.equal(routing[3], first.expert_ids):
        raise Mistake("give back the routing as it was decided before the bias moved")
    wanted, _ = some_router()
    balanced_forward(wanted.train(), x, 0.1)
    moved = router.e_score_correction_bias
    if not moved.any():
        raise Mistake("no bias moves in training; then nobody balances")
    if not torch.allclose(moved, wanted.e_score_correction_bias):
        raise Mistake("the biases move, but not by rate · sign(mean count − count)")


def repaired_gate_weights(
    chosen_scores: Float[Tensor, "tokens top_k"], config: ModelConfig
) -> Float[Tensor, "tokens top_k"]:
    """Shares of the chosen scores, a single one undivided; times the scale."""
    if config.top_k == 1:
        return chosen_scores * config.route_scale
    return gate_weights(chosen_scores, config)


single_exercise = exercise(
    repaired_gate_weights,
    difficulty=2,
    importance=4,
    minutes=5,
    hints=(
        "What is a number divided by itself? And its derivative?",
        "With top_k = 1 do not divide; with more, divide by the sum as before. Scale both.",
    ),
)


@single_exercise.probe("one expert a token")
def _(student):
    chosen = torch.tensor([[0.9], [0.4]], requires_grad=True)
    gates = student(chosen, config(top_k=1))
    (gradient,) = (
        torch.autograd.grad(gates.sum(), chosen) if gates.requires_grad else (torch.zeros(1),)
    )
    if gradient.abs().max() < 1e-4:
        raise Mistake(
            f"your gates are {gates.flatten().tolist()} with the gradient 0: the router cannot "
            "learn from them"
        )


def chosen_scores(top_k: int) -> Tensor:
    """Scores of each token's chosen experts."""
    return some_scores()[:, :top_k]


for what, k in (("one expert", 1), ("two experts", 2)):
    single_exercise.agrees(
        f"{what}, route_scale=2.5",
        lambda k=k: (chosen_scores(k), config(top_k=k, route_scale=2.5)),
        "your gates",
    )
