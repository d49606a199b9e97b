"""Exercises of 06_train: the learning rate, Muon's step, and balance by bias and by loss."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mini_moe.config import TrainConfig
from mini_moe.teaching.exercise import Mistake, exercise
from mini_moe.training import balance, losses, optimizer

SCHEDULE = TrainConfig(steps=100, warmup_steps=9, decay_fraction=0.5)

learning_rate_factor = exercise(
    optimizer.learning_rate_factor,
    difficulty=2,
    importance=4,
    minutes=8,
    hints=(
        "Three lines: rising, flat, falling. The factor is the lowest of the three at each step.",
        "Rising: (step + 1) / (warmup_steps + 1), so that step 0 already learns a little.",
        "Falling: (steps − step) / (decay_fraction · steps) is 1 where the fall begins; take "
        "max(1, decay_fraction · steps), since decay_fraction may be 0.",
    ),
)


@learning_rate_factor.probe("100 steps, 9 of warm-up, falling over the second half")
def _(student):
    for step, wanted in ((0, 0.1), (9, 1.0), (30, 1.0), (75, 0.5), (99, 0.02)):
        found = student(step, SCHEDULE)
        if not abs(found - wanted) < 1e-6:
            raise Mistake(f"at step {step} you give {found:.4g}; {wanted} expected")


learning_rate_factor.agrees(
    "warm-up and fall overlap", lambda: (15, TrainConfig(steps=20, warmup_steps=30))
)
learning_rate_factor.agrees("no warm-up", lambda: (0, TrainConfig(steps=50, warmup_steps=0)))
learning_rate_factor.agrees("no fall", lambda: (49, TrainConfig(steps=50, decay_fraction=0.0)))


def newton_schulz(x: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
    """One step: a x + b (x xᵀ) x + c (x xᵀ)² x."""
    a, b, c = optimizer.NEWTON_SCHULZ
    gram = x @ x.mT
    return a * x + b * gram @ x + c * gram @ gram @ x


newton_exercise = exercise(
    newton_schulz,
    source=optimizer.orthogonalise,
    difficulty=2,
    importance=3,
    minutes=5,
    hints=(
        "`gram = x @ x.mT` is x xᵀ; then three summands.",
        "a · x + b · gram @ x + c · gram @ gram @ x, with a, b, c = NEWTON_SCHULZ.",
    ),
)


@newton_exercise.probe("a diagonal matrix, whose singular values can be read off")
def _(student):
    a, b, c = optimizer.NEWTON_SCHULZ
    found = student(torch.diag(torch.tensor([0.5, 0.1]))).diagonal()
    for s, got in zip((0.5, 0.1), found.tolist(), strict=True):
        wanted = a * s + b * s**3 + c * s**5
        if abs(got - wanted) > 1e-4:
            raise Mistake(f"the singular value {s} becomes {got:.4g}; {wanted:.4g} expected")


newton_exercise.agrees(
    "a wide matrix", lambda: (torch.arange(6.0).view(2, 3).div(10) - 0.2,), "your result"
)


def update_expert_bias(
    bias: Float[Tensor, "experts"], counts: Int[Tensor, "experts"], rate: float
) -> Float[Tensor, "experts"]:
    """The next bias; the package changes it in place."""
    moved = bias.clone()
    balance.update_expert_bias(moved, counts, rate)
    return moved


bias_exercise = exercise(
    update_expert_bias,
    source=balance.update_expert_bias,
    difficulty=2,
    importance=5,
    minutes=5,
    hints=(
        "Compare each count with the mean of all counts.",
        "`torch.sign` gives +1, 0 or −1: how far off a load is makes no difference.",
        "Fewer than the mean: the bias rises. `counts` are integers; make them floats first.",
    ),
)


@bias_exercise.probe("counts 10, 2, 6, 6 and a rate of 0.1")
def _(student):
    moved = student(torch.zeros(4), torch.tensor([10, 2, 6, 6]), 0.1)
    if float(moved[0]) > 0:
        raise Mistake(
            f"the busiest expert's bias goes to {float(moved[0]):+.2g}; it must fall, to −0.1"
        )
    if abs(float(moved[0]) + 0.1) > 1e-6:
        raise Mistake(f"the busiest expert's bias goes to {float(moved[0]):+.3g}; −0.1 expected")
    if float(moved[2]) != 0:
        raise Mistake(f"an expert with exactly the mean load moves by {float(moved[2]):+.2g}")


bias_exercise.agrees(
    "a bias that is not zero",
    lambda: (torch.tensor([0.2, -0.1, 0.0]), torch.tensor([1, 5, 9]), 0.001),
)


def some_scores() -> Tensor:
    """Scores of two sequences of three tokens, four experts; the same at every call."""
    return torch.rand(6, 4, generator=torch.Generator().manual_seed(6)) * 0.8 + 0.1


LOPSIDED = torch.tensor([[0.9, 0.8, 0.1, 0.2]]).repeat(4, 1)

sequence_balance_loss = exercise(
    losses.sequence_balance_loss,
    difficulty=4,
    importance=4,
    minutes=15,
    hints=(
        "f: mark the top_k of each token with ones (scatter), then average over the sequence.",
        "f is scaled by experts / top_k, so that it is 1 for every expert at perfect balance.",
        "P: each token's scores divided by their sum, averaged over the sequence.",
        "rearrange or view [tokens, experts] to [n_sequences, seq, experts] before averaging.",
        "Σ over experts of f · P for each sequence, then the mean over sequences.",
    ),
)


@sequence_balance_loss.probe("four tokens that all choose experts 0 and 1 of 4")
def _(student):
    found = float(student(LOPSIDED.clone(), 2, 1))
    if abs(found - 1.7) > 1e-4:
        raise Mistake(
            f"you give {found:.4g}; f is 2, 2, 0, 0 and P 0.45, 0.4, 0.05, 0.1, so Σ f·P is 1.7"
        )


sequence_balance_loss.agrees("one sequence of six tokens", lambda: (some_scores(), 2, 1))
sequence_balance_loss.agrees("two sequences of three tokens", lambda: (some_scores(), 2, 2))


@sequence_balance_loss.probe("the gradient")
def _(student):
    gradients = []
    for loss in (student, losses.sequence_balance_loss):
        scores = some_scores().requires_grad_()
        result = loss(scores, 2, 2)
        if not result.requires_grad:
            raise Mistake("your loss has no gradient; P must stay connected to the scores")
        result.backward()
        gradients.append(scores.grad)
    if not torch.allclose(*gradients, atol=1e-5):
        raise Mistake("your gradient differs; only P carries one, f just counts")
