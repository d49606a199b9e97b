"""How time and memory grow with one size of the problem, and the power that fits them."""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

from mini_moe.config import ModelConfig, TrainConfig
from mini_moe.device import as_device
from mini_moe.profiling.counting import predict_memory
from mini_moe.profiling.timing.steps import seconds_of
from mini_moe.text import Corpus, load_corpus, sample_batch
from mini_moe.training.loop import check_fit, fresh_state, train_step

AXES = {
    "tokens": "tokens a step (sequences of one length)",
    "experts": "routed experts (as many chosen, as wide)",
    "top_k": "experts a token",
    "width": "d_model (feed-forward networks and heads in proportion)",
    "context": "tokens of the one sequence",
}
WARM_UP = 2


class Power(NamedTuple):
    """y ≈ factor · x^exponent, fitted by least squares between the logarithms."""

    exponent: float
    error: float  # standard error of the exponent
    factor: float

    def __str__(self) -> str:
        return f"{self.exponent:.2f} ± {self.error:.2f}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Growth:
    """Measured seconds and bytes along one axis, everything else held still."""

    axis: str
    what: str  # "training step" or "forward pass"
    values: tuple[int, ...]
    seconds: tuple[float, ...]  # the fastest of some rounds
    n_bytes: tuple[int, ...]  # most memory of a training step, foretold; () where it was not

    @property
    def time(self) -> Power:
        """The power of the axis that time grows with."""
        return fit_power(self.values, self.seconds)

    @property
    def memory(self) -> Power:
        """The power of the axis that memory grows with."""
        return fit_power(self.values, self.n_bytes)

    def last_steps(self) -> list[float]:
        """The exponent between each value and the next: a bend shows here, not in the fit."""
        pairs = list(zip(self.values, self.seconds, strict=True))
        return [
            math.log(later / sooner) / math.log(more / fewer)
            for (fewer, sooner), (more, later) in zip(pairs, pairs[1:], strict=False)
        ]


def fit_power(x: Sequence[int | float], y: Sequence[int | float]) -> Power:
    """The straight line through log y against log x, with the standard error of its slope.

    slope = Σ (u − ū)(v − v̄) / Σ (u − ū)²; error = √(Σ residual² / (n − 2) / Σ (u − ū)²).

    Raises: ValueError for fewer than three points, values not above 0, or all x equal.
    """
    if len(x) != len(y) or len(x) < 3:
        raise ValueError(f"x and y: as many points, at least 3, expected; got {len(x)}, {len(y)}")
    if min(*x, *y) <= 0:
        raise ValueError(f"x and y: values above 0 expected, got {min(*x, *y)}")
    u, v = [math.log(a) for a in x], [math.log(b) for b in y]
    mean_u, mean_v = sum(u) / len(u), sum(v) / len(v)
    spread = sum((a - mean_u) ** 2 for a in u)
    if not spread:
        raise ValueError(f"x: different values expected, got {list(x)}")
    slope = sum((a - mean_u) * (b - mean_v) for a, b in zip(u, v, strict=True)) / spread
    start = mean_v - slope * mean_u
    misses = sum((b - start - slope * a) ** 2 for a, b in zip(u, v, strict=True))
    return Power(slope, math.sqrt(misses / (len(u) - 2) / spread), math.exp(start))


def measure_growth(
    config: ModelConfig,
    axis: str,
    values: Sequence[int],
    *,
    train_config: TrainConfig | None = None,
    corpus: Corpus | None = None,
    what: str = "training step",
    rounds: int = 4,
    memory: bool = True,
    device: str = "cpu",
) -> Growth:
    """Time a training step (or a forward pass) at several values of one axis of `AXES`.

    All sizes are built first and then take turns, so that a slow moment of the machine falls on
    each of them; the fastest of `rounds` counts, after WARM_UP turns. On `device="cuda"` the clock
    waits for the work that was started. Memory is foretold, which takes a second or two a value,
    unless `memory` is False.

    Raises: ValueError for an unknown axis, fewer than three values, no rounds, a device that is not
    here, or a value that makes no model.
    """
    if axis not in AXES:
        raise ValueError(f"axis={axis!r}: one of {', '.join(AXES)} expected")
    if what not in ("training step", "forward pass"):
        raise ValueError(f"what={what!r}: 'training step' or 'forward pass' expected")
    if len(set(values)) < 3 or rounds < 1:
        raise ValueError(
            f"values: at least 3 different ones, and rounds of at least 1, expected; "
            f"got {list(values)}, rounds={rounds}"
        )
    where = as_device(device)
    corpus = load_corpus() if corpus is None else corpus
    base = TrainConfig(batch_size=4, seq_len=128) if train_config is None else train_config
    sizes = [sized(config, base, axis, value) for value in values]
    for model_config, size in sizes:
        check_fit(model_config, size, corpus)
    states = [fresh_state(*one, corpus, where) for one in sizes]
    training = what == "training step"
    calls = [
        _step(state, size, corpus) if training else _forward(state, size, corpus)
        for state, (_, size) in zip(states, sizes, strict=True)
    ]
    best = [math.inf] * len(values)
    for turn in range(WARM_UP + rounds):
        for number, call in enumerate(calls):
            seconds = seconds_of(call, where)
            if turn >= WARM_UP:
                best[number] = min(best[number], seconds)
    peaks = (
        [predict_memory(*one, device=device).peak for one in sizes] if training and memory else []
    )
    return Growth(
        axis=axis, what=what, values=tuple(values), seconds=tuple(best), n_bytes=tuple(peaks)
    )


def sized(
    config: ModelConfig, train: TrainConfig, axis: str, value: int
) -> tuple[ModelConfig, TrainConfig]:
    """Both configurations with one axis at `value` and everything else held still.

    Raises: ValueError where they don't fit, e.g. tokens that are no whole number of sequences.
    """
    replace = dataclasses.replace
    if axis == "tokens":
        if value % train.seq_len:
            raise ValueError(f"tokens={value} is not divisible by seq_len={train.seq_len}")
        return config, replace(train, batch_size=value // train.seq_len)
    if axis == "context":
        longest = max(config.max_seq_len, value)
        return replace(config, max_seq_len=longest), replace(train, batch_size=1, seq_len=value)
    if axis == "experts":
        return replace(config, n_routed_experts=value), train
    if axis == "top_k":
        return replace(config, top_k=value), train

    def in_proportion(width: int) -> int:
        return max(1, round(width * value / config.d_model))

    wide = {name: in_proportion(getattr(config, name)) for name in ("d_ff", "d_expert", "n_heads")}
    return replace(config, d_model=value, **wide), train


def _step(state, size: TrainConfig, corpus: Corpus):
    return lambda: train_step(state, size, corpus)


def _forward(state, size: TrainConfig, corpus: Corpus):
    batch = sample_batch(corpus.train, batch=size.batch_size, length=size.seq_len, seed=0, step=0)
    tokens = batch.tokens.to(state.model.embed_tokens.weight.device)

    def run() -> None:
        with torch.no_grad(), torch.autocast(tokens.device.type, torch.bfloat16, state.bf16):
            state.model(tokens)

    return run
