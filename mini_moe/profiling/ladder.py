"""Apply one change after another to the same model, and time each against all earlier ones."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from mini_moe.config import TrainConfig
from mini_moe.model import Transformer
from mini_moe.ops import use
from mini_moe.ops.context import Form
from mini_moe.profiling.timing.steps import check_model, copy_state, seconds_of
from mini_moe.text import Corpus, load_corpus
from mini_moe.training.checkpoint import TrainingState
from mini_moe.training.loop import train_step


@contextmanager
def with_threads(count: int) -> Iterator[None]:
    """Use this many CPU threads for operations inside the context.

    Raises: ValueError for fewer than one.
    """
    if count < 1:
        raise ValueError(f"count={count} must be at least 1")
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class Rung:
    """A way to take training steps."""

    name: str
    config: TrainConfig
    form: Form = "compiled"  # which implementation of the operations runs, as in `ops.use`
    threads: int | None = None  # CPU threads; None: as many as the caller uses
    fused: bool = True  # AdamW in one pass, or one operation and one weight at a time

    def state(self, model: Transformer) -> TrainingState:
        """Return a copy of the model with this rung's optimizers."""
        state = copy_state(model, self.config)
        if not self.fused:
            for optimizer in state.optimizers:
                for group in optimizer.param_groups:
                    if "fused" in group:
                        group |= {"fused": False, "foreach": False}
        return state


def climb(
    model: Transformer, rungs: Sequence[Rung], corpus: Corpus | None = None, *, rounds: int = 4
) -> dict[str, list[float]]:
    """Time `rounds` training steps of each rung, alternating between rungs; return the seconds.

    Alternating makes a slow moment of the machine affect all rungs. Each timed step follows an
    untimed one, because caches, and the routines that libraries keep for each shape, are still
    those of the previous rung. Every rung gets a copy of the model.

    Raises: ValueError for no rungs, duplicate names, no rounds, or a model that can't be timed.
    """
    names = [rung.name for rung in rungs]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"rungs: at least one, with distinct names, expected, got {names}")
    check_model(model, rounds, compiled_too=True)
    corpus = load_corpus() if corpus is None else corpus
    device = next(model.parameters()).device
    states = [rung.state(model) for rung in rungs]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        for rung, state in zip(rungs, states, strict=True):

            def step(state: TrainingState = state, config: TrainConfig = rung.config) -> None:
                train_step(state, config, corpus)

            with use(rung.form), with_threads(rung.threads or torch.get_num_threads()):
                step()
                seconds[rung.name].append(seconds_of(step, device))
    return seconds
