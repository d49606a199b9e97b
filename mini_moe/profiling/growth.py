"""How time and memory grow with one size of the problem, and the power law that fits them."""

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
    "tokens": "tokens per step (sequences of equal length)",
    "experts": "routed experts (same top_k, same width)",
    "top_k": "experts per token",
    "width": "d_model (feed-forward networks and heads scale along)",
    "context": "tokens in a single sequence",
}
WARM_UP = 2


class Power(NamedTuple):
    """y ≈ factor · x^exponent, fitted by least squares on the logarithms."""

    exponent: float
    error: float  # standard error of the exponent
    factor: float

    def __str__(self) -> str:
        return f"{self.exponent:.2f} ± {self.error:.2f}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Growth:
    """Seconds and bytes measured along one axis, with everything else fixed."""

    axis: str
    what: str  # "training step" or "forward pass"
    values: tuple[int, ...]
    seconds: tuple[float, ...]  # the fastest of several rounds
    n_bytes: tuple[int, ...]  # predicted peak memory of a training step; () if not predicted

    @property
    def time(self) -> Power:
        """The power law of time along the axis."""
        return fit_power(self.values, self.seconds)

    @property
    def memory(self) -> Power:
        """The power law of memory along the axis."""
        return fit_power(self.values, self.n_bytes)

    def last_steps(self) -> list[float]:
        """Return the exponent between each value and the next, which shows a bend the fit hides."""
        pairs = list(zip(self.values, self.seconds, strict=True))
        return [
            math.log(later / sooner) / math.log(more / fewer)
            for (fewer, sooner), (more, later) in zip(pairs, pairs[1:], strict=False)
        ]


def fit_power(x: Sequence[int | float], y: Sequence[int | float]) -> Power:
    """Fit a straight line to log y against log x, and estimate the standard error of its slope.

    slope = Σ (u − ū)(v − v̄) / Σ (u − ū)²; error = √(Σ residual² / (n − 2) / Σ (u − ū)²).

    Raises: ValueError for fewer than three points, values not above 0, or all x equal.
    """
    if len(x) != len(y) or len(x) < 3:
        raise ValueError(f"x and y: equally many, at least 3, expected, got {len(x)}, {len(y)}")
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
    """Time a training step (or a forward pass) at several values of one axis in `AXES`.

    All sizes are built first and then timed alternately, so that a slow moment of the machine
    affects all of them; the fastest of `rounds` counts, after WARM_UP untimed rounds. On
    `device="cuda"` the clock waits for the GPU to finish. Peak memory is predicted, which takes a
    second or two per value, unless `memory` is False.

    Raises: ValueError for an unknown axis, fewer than three values, no rounds, an unavailable
    device, or a value that gives an invalid configuration.
    """
    if axis not in AXES:
        raise ValueError(f"axis={axis!r}: one of {', '.join(AXES)} expected")
    if what not in ("training step", "forward pass"):
        raise ValueError(f"what={what!r}: 'training step' or 'forward pass' expected")
    if len(set(values)) < 3 or rounds < 1:
        raise ValueError(
            f"values: at least 3 different ones, and at least 1 round, expected, "
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
    """Return both configurations with one axis set to `value` and everything else unchanged.

    Raises: ValueError if they don't fit, e.g. if the tokens don't make whole sequences.
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
