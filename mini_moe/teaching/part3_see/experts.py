"""Exercises of 10_routing: what experts do, beside what chance would do."""

import functools
from collections.abc import Callable

import torch
from jaxtyping import Int
from torch import Tensor

from mini_moe.config import ModelConfig
from mini_moe.model import Transformer
from mini_moe.routing import intervene
from mini_moe.routing.measures import choices, effects, specialisation, structure
from mini_moe.teaching.exercise import Mistake, exercise, must_match, value_exercise

# Two layers, five tokens, two choices each, four experts; the first two tokens are domain 0.
CHOICES = torch.tensor(
    [[[0, 1], [0, 2], [1, 2], [2, 0], [2, 1]], [[3, 0], [3, 1], [2, 1], [1, 2], [0, 1]]]
)
DOMAINS = torch.tensor([0, 0, 1, 1, 1])

domain_exercise = exercise(
    specialisation.domain_specialisation,
    difficulty=2,
    importance=5,
    minutes=10,
    hints=(
        "`(expert_ids == expert).any(dim=-1)` is True for the tokens that chose an expert.",
        "For one domain: the mean of that over the tokens where `domains == domain`.",
        "Three loops are fine: layers, domains, experts. Fill `torch.zeros(layers, domains, "
        "experts)`.",
    ),
)


def _are_ones(sums: Tensor) -> bool:
    """True where every sum is 1, apart from those of nothing."""
    sums = sums.nan_to_num()
    return bool(((sums - 1).abs() < 1e-4).logical_or(sums == 0).all())


@domain_exercise.probe("two tokens of domain 0, both choose expert 0 in the first layer")
def _(student: Callable) -> None:
    shares = student(CHOICES.clone(), DOMAINS.clone(), 2, 4)
    shape = tuple(getattr(shares, "shape", ()))
    if shape != (2, 2, 4):
        raise Mistake(f"your result has shape {shape}; (layers, domains, experts) = (2, 2, 4)")
    if _are_ones(shares.sum(dim=0)):
        raise Mistake(
            "your shares sum to 1 over the layers: a script of ESFT normalises so; divide by the "
            "domain's tokens instead"
        )
    if _are_ones(shares.sum(dim=1)):
        raise Mistake(
            "your shares sum to 1 over the domains; that is how an expert's work is made up, not "
            "which share of a domain it gets"
        )
    if _are_ones(shares.sum(dim=-1)):
        raise Mistake("your shares sum to 1 over the experts; each token chooses 2, so 2 expected")


domain_exercise.agrees(
    "five tokens, two domains", lambda: (CHOICES.clone(), DOMAINS.clone(), 2, 4), "your shares"
)
domain_exercise.agrees(
    "an expert that nobody chooses", lambda: (CHOICES.clone(), DOMAINS.clone(), 2, 5), "your shares"
)


coactivation_exercise = exercise(
    structure.coactivation,
    difficulty=3,
    importance=4,
    minutes=10,
    hints=(
        "Make a table chosen[token, expert] of zeros and ones: `F.one_hot(expert_ids, "
        "n_experts).sum(dim=-2)`.",
        "chosenᵀ · chosen counts, for every pair, the tokens that have both. Its diagonal counts "
        "the tokens of each expert.",
        "Divide row i by the number of tokens of expert i: `pairs / pairs.diagonal(dim1=-2, "
        "dim2=-1)[..., None]`.",
    ),
)

TRIPLES = torch.tensor([[0, 1, 2], [3, 1, 0], [0, 3, 1], [2, 0, 1]])


@coactivation_exercise.probe("experts 0 and 1 always work together, often at ranks 1 and 3")
def _(student: Callable) -> None:
    found = student(TRIPLES.clone(), 4)
    if tuple(getattr(found, "shape", ())) != (4, 4):
        raise Mistake(f"a table [experts, experts] expected, got {found}")
    if float(found[0, 1]) < 0.8:
        raise Mistake(
            f"all 4 tokens of expert 0 chose expert 1 too, you find {float(found[0, 1]):.2g}; "
            "count every pair of a token's choices, not only neighbours in the ranking"
        )
    if abs(float(found[2, 0]) - 1) > 1e-4:
        raise Mistake(
            f"both tokens of expert 2 chose expert 0: row 2, column 0 must be 1, yours is "
            f"{float(found[2, 0]):.3g}; divide row i by the tokens of expert i"
        )


coactivation_exercise.agrees("four tokens", lambda: (TRIPLES.clone(), 4), "your table")
coactivation_exercise.agrees("two layers at once", lambda: (CHOICES.clone(), 4), "your table")


saturation_exercise = exercise(
    choices.saturation,
    difficulty=2,
    importance=3,
    minutes=8,
    hints=(
        "Which of the early choices occur among the late ones? Order plays no part.",
        "`early[..., :, None] == late[..., None, :]` compares each with each.",
        "`.any(dim=-1)` says which early choices are found again; take the mean over tokens and k.",
    ),
)


@saturation_exercise.probe("the same two experts in another order")
def _(student: Callable) -> None:
    early, late = torch.tensor([[[0, 1], [2, 3]]]), torch.tensor([[[1, 0], [3, 2]]])
    found = student(early, late)
    if abs(float(found) - 1) > 1e-5:
        raise Mistake(
            f"the experts are the same, only their order differs: 1 expected, got {found}"
        )


@saturation_exercise.probe("one of two experts in common")
def _(student: Callable) -> None:
    found = float(student(torch.tensor([[[0, 1]]]), torch.tensor([[[1, 2]]])))
    if abs(found - 1 / 3) < 1e-4:
        raise Mistake("you divide by the union, 3 experts; divide by k = 2")
    if abs(found - 0.5) > 1e-4:
        raise Mistake(f"one of two choices is kept: 0.5 expected, got {found:.3g}")


saturation_exercise.agrees(
    "two layers, one number each", lambda: (CHOICES.clone(), CHOICES.flip(1)), "your saturation"
)


margin_exercise = exercise(
    choices.choice_margin,
    difficulty=1,
    importance=3,
    minutes=5,
    hints=(
        "Sort the scores of a token, best first. Which two stand at the border?",
        "`choice_scores.topk(top_k + 1, dim=-1).values` has both of them at its end.",
    ),
)


@margin_exercise.probe("scores 0.9 0.1 0.6 0.55, two chosen")
def _(student: Callable) -> None:
    found = student(torch.tensor([[0.9, 0.1, 0.6, 0.55]]), 2)
    found = float(found)
    if found < 0:
        raise Mistake(f"the last chosen has the higher score: +0.05 expected, got {found:.3g}")
    for value, why in (
        (0.3, "0.3 lies between the first and the second choice"),
        (0.35, "0.35 lies between the first choice and the first one left out"),
        (0.45, "0.45 lies between the third and the fourth"),
    ):
        if abs(found - value) < 1e-4:
            raise Mistake(f"{why}; the border runs between 0.6 (chosen) and 0.55 (left out)")
    if abs(found - 0.05) > 1e-5:
        raise Mistake(f"0.6 − 0.55 = 0.05 expected, got {found:.3g}")


margin_exercise.agrees(
    "three tokens", lambda: (torch.tensor([[0.3, 0.9, 0.5, 0.1], [0.2] * 4, [0.7, 0, 1, 0.4]]), 3)
)


chance_percent = value_exercise(
    "chance_percent",
    3.125,
    tolerance=0.03,
    explanation=(
        "Each of the 8 chosen experts is among the other's 8 with probability 8/256, so "
        "8 · 8/256 = 0.25 are common on average, and 0.25 of 8 is 8/256 = 3.125 percent: k / N."
    ),
    difficulty=2,
    importance=4,
    minutes=4,
    hints=(
        "Take one expert of the first router. How probable is it that the other chose it as well?",
        "That holds for each of the 8, so it is also the expected share of all 8. In percent.",
    ),
)


@chance_percent.probe()
def _(value: int | float) -> None:
    if abs(value - 0.03125) < 1e-4:
        raise Mistake(f"{value:.3g} is the fraction; in percent it is a hundred times that")
    if abs(value - 25) < 0.1:
        raise Mistake("25 would be right for 16 experts of which 4 are chosen")
    if abs(value - 0.25) < 1e-4:
        raise Mistake("0.25 experts are common on average; as a share of the 8 that is less")
    if abs(value - 12.5) < 0.1:
        raise Mistake("12.5 is OLMoE's chance level, 8 of 64; here the experts are 256")


def knock_out_cost(
    model: Transformer, passages: Int[Tensor, "rows seq"], layer: int, expert: int
) -> float:
    """Change of the mean loss, in nats a token, when one expert is switched off."""
    labels = torch.zeros(len(passages), dtype=torch.long)
    found = effects.knock_out_effects(model, passages, labels, [{(layer, expert)}], 1)
    return float(found.loss_change)


SMALL = ModelConfig(
    vocab_size=31, d_model=32, n_layers=3, n_dense_layers=1, d_ff=48, max_seq_len=32, n_heads=2,
    kv_lora_rank=16, qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=8, n_routed_experts=4,
    n_shared_experts=1, top_k=1, d_expert=32, route_scale=2.5,
)  # fmt: skip


@functools.cache
def small_model() -> tuple[Transformer, Tensor]:
    """A model with random weights in which every expert matters, and passages for it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = Transformer(SMALL).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(3.0)
        return model, torch.randint(0, 31, (6, 12))


cost_exercise = exercise(
    knock_out_cost,
    source=effects.knock_out_effects,
    difficulty=3,
    importance=5,
    minutes=12,
    hints=(
        "The model gives logits of the next token: after `passages[:, :-1]` it should expect "
        "`passages[:, 1:]`. `F.cross_entropy(logits.flatten(0, 1), targets.flatten())`.",
        "Once with `model`, once with the model that `with intervene(model, off={(layer, expert)}) "
        "as changed:` gives.",
        "Return the loss of `changed` minus that of `model`, as a float; without gradients: "
        "`torch.no_grad()`.",
    ),
)


@cost_exercise.probe("a small model with random weights")
def _(student: Callable) -> None:
    model, passages = small_model()
    wanted = [knock_out_cost(model, passages, 1, expert) for expert in range(4)]
    found = [float(student(model, passages, 1, expert)) for expert in range(4)]
    if max(map(abs, found)) < 1e-7:
        raise Mistake(
            "your four differences are all 0; one loss must be that of `changed`, the model that "
            "`with intervene(…) as changed:` gives, and the other one that of `model`"
        )
    if all(abs(a + b) < 1e-4 for a, b in zip(found, wanted, strict=True)):
        raise Mistake("your sign is turned round: after − before, so that harm is positive")
    tokens = passages.numel() - len(passages)
    if all(abs(a - b * tokens) < 1e-2 for a, b in zip(found, wanted, strict=True)):
        raise Mistake("you give the sum over all tokens; the mean is asked for")
    aside = _without_shift(model, passages)
    if all(abs(a - b) < 1e-4 for a, b in zip(found, aside, strict=True)):
        raise Mistake(
            "you compare each logit with the token it was computed from; the target is the next "
            "token, `passages[:, 1:]`"
        )
    for expert in range(4):
        must_match(found[expert], wanted[expert], f"your change without expert {expert}")
    other = float(student(model, passages, 2, 0))
    must_match(other, knock_out_cost(model, passages, 2, 0), "your change in another layer")


def _without_shift(model: Transformer, passages: Tensor) -> list[float]:
    """What comes out when targets are the input tokens themselves."""

    def loss(model: Transformer) -> float:
        logits = model(passages).flatten(0, 1)
        return float(torch.nn.functional.cross_entropy(logits, passages.flatten()))

    with torch.no_grad():
        before, after = loss(model), []
        for expert in range(4):
            with intervene(model, off={(1, expert)}) as changed:
                after.append(loss(changed))
    return [value - before for value in after]
