"""Seconds per training step of every model, interleaved, for comparisons at equal wall time."""

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from mini_moe.config import ModelConfig, TrainConfig
from mini_moe.experiments.designs import Arm
from mini_moe.experiments.measures import machine, only_domains, settings
from mini_moe.ops import compiled, use
from mini_moe.ops.context import Form
from mini_moe.text import Corpus
from mini_moe.training.checkpoint import TrainingState
from mini_moe.training.loop import fresh_state, train_step
from mini_moe.training.speed import keep_freed_memory

ROUNDS, TURN, LEFT_OUT = 7, 6, 3  # rounds, steps per turn, and how many of those are discarded
THREADS = 2


def distinct_models(arms: Mapping[str, Arm]) -> dict[str, Arm]:
    """Return the first arm of each model: other arms of that model have the same step time."""
    seen: dict[ModelConfig, str] = {}
    for name, arm in arms.items():
        seen.setdefault(arm.model, name)
    return {name: arms[name] for name in seen.values()}


def step_times(arms: Mapping[str, Arm], corpus: Corpus, command: str) -> list[dict]:
    """Return one record per distinct model with the seconds of its training steps on two threads.

    Arms alternate in turns of TURN steps, so that they all share the machine's fast and slow
    moments. A turn's first LEFT_OUT steps are discarded, because caches, and the routines that the
    matrix library keeps for each shape, are still those of the previous arm (with turns of one
    step, a mixture took up to 1.8 times as long). The first round is discarded as well. A step
    includes everything: batch, forward, backward, optimizer.

    If experts run in compiled kernels, mixtures are timed a second time without them:
    `seconds_pytorch` and `median_pytorch`.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    keep_freed_memory()
    models = distinct_models(arms)
    states = {name: fresh_state(arm.model, arm.at_seed(0), corpus) for name, arm in models.items()}
    texts = {name: only_domains(corpus, arm.domains) for name, arm in models.items()}
    seconds: dict[tuple[str, str], list[float]] = {}
    for number in range(1 + ROUNDS):
        for name, arm in models.items():
            for suffix, form in paths(arm.model).items():
                with use(form):
                    turn = take_turn(states[name], arm.at_seed(0), texts[name])
                if number:
                    seconds.setdefault((name, suffix), []).extend(turn)
    facts = machine()
    torch.set_num_threads(before)
    records = []
    for name, arm in models.items():
        record = {"experiment": "step_time", "arm": name, "seed": 0, **settings(arm, 0)}
        for suffix in paths(arm.model):
            taken = seconds[name, suffix]
            record |= {f"seconds{suffix}": taken, f"median{suffix}": statistics.median(taken)}
        records.append(record | {"machine": facts, "command": command})
    return records


def paths(model: ModelConfig) -> dict[str, Form]:
    """Map each suffix of a record's fields to the form in which operations run."""
    if compiled.WHY_NOT or not model.n_moe_layers:
        return {"": "compiled"}
    return {"": "compiled", "_pytorch": "pytorch"}


def take_turn(state: TrainingState, config: TrainConfig, corpus: Corpus) -> list[float]:
    """Run one turn and return the seconds of its steps, without the discarded ones."""
    seconds = []
    for _ in range(TURN):
        start = time.perf_counter()
        train_step(state, config, corpus)
        seconds.append(round(time.perf_counter() - start, 5))
    return seconds[LEFT_OUT:]


def seconds_per_step(
    times: Sequence[Mapping[str, Any]], runs: Sequence[Mapping[str, Any]]
) -> dict[str, float]:
    """Return the median seconds per step for every arm of an experiment, looked up by its model.

    Raises: ValueError for an arm whose model was not timed.
    """
    found = {}
    for run in runs:
        for timed in times:
            if timed["model_config"] == run["model_config"]:
                found[run["arm"]] = timed["median"]
        if run["arm"] not in found:
            raise ValueError(f"times: one for the model of arm {run['arm']!r} expected, got none")
    return found
