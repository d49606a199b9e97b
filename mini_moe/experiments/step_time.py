"""Seconds of a training step of every model, taken in turn, for comparisons at equal wall clock."""

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from mini_moe.config import ModelConfig, TrainConfig
from mini_moe.experiments.designs import Arm
from mini_moe.experiments.measures import machine, only_domains, settings
from mini_moe.ops import compiled, use
from mini_moe.ops.switch import Form
from mini_moe.text import Corpus
from mini_moe.training.checkpoint import TrainingState
from mini_moe.training.loop import fresh_state, train_step
from mini_moe.training.speed import keep_freed_memory

ROUNDS, TURN, LEFT_OUT = 7, 6, 3  # rounds, steps of a turn, and how many of them don't count
THREADS = 2


def distinct_models(arms: Mapping[str, Arm]) -> dict[str, Arm]:
    """The first arm of each model: a step costs the same however many there are of it."""
    seen: dict[ModelConfig, str] = {}
    for name, arm in arms.items():
        seen.setdefault(arm.model, name)
    return {name: arms[name] for name in seen.values()}


def step_times(arms: Mapping[str, Arm], corpus: Corpus, command: str) -> list[dict]:
    """One record an arm with the seconds of its training steps on two threads.

    The arms take turns of TURN steps, so all share the fast and the slow moments of the machine. A
    turn's first LEFT_OUT steps don't count: caches, and the routines that the matrix library keeps
    for each shape, are still those of the arm before (with turns of one step a mixture took up to
    1.8 times as long). Neither does the first round. A step is all of it: batch, forward, backward,
    optimizer.

    Where experts run in compiled kernels, mixtures are timed a second time with those switched off:
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
    """Suffix of a record's fields → the form in which operations run then."""
    if compiled.WHY_NOT or not model.n_moe_layers:
        return {"": "compiled"}
    return {"": "compiled", "_pytorch": "pytorch"}


def take_turn(state: TrainingState, config: TrainConfig, corpus: Corpus) -> list[float]:
    """Seconds of the steps of one turn that count."""
    seconds = []
    for _ in range(TURN):
        start = time.perf_counter()
        train_step(state, config, corpus)
        seconds.append(round(time.perf_counter() - start, 5))
    return seconds[LEFT_OUT:]


def seconds_per_step(
    times: Sequence[Mapping[str, Any]], runs: Sequence[Mapping[str, Any]]
) -> dict[str, float]:
    """Median seconds of a step for every arm of an experiment, found by its model.

    Raises: ValueError for an arm whose model was not timed.
    """
    found = {}
    for run in runs:
        for timed in times:
            if timed["model_config"] == run["model_config"]:
                found[run["arm"]] = timed["median"]
        if run["arm"] not in found:
            raise ValueError(f"times: a step of arm {run['arm']!r} expected")
    return found
