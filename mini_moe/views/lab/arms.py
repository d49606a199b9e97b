"""Train several versions of one model, one step of each in turn, so you can watch them together."""

import dataclasses
import time
from collections.abc import Callable, Mapping

from mini_moe.config import ModelConfig, TrainConfig
from mini_moe.text import Corpus, load_corpus
from mini_moe.training.loop import TrainRun, check_fit, fresh_state, train_step
from mini_moe.training.speed import bf16_is_faster, keep_freed_memory

NONE, AUXILIARY, LOSS_FREE = "no balancing", "auxiliary loss", "loss-free bias"


def balance_arms(config: TrainConfig, rate: float, weight: float) -> dict[str, TrainConfig]:
    """Configure three runs: no balancing, the Switch loss with weight `weight`, and a bias with
    update rate `rate`; everything else is equal.
    """
    off = dataclasses.replace(
        config, bias_update_rate=0.0, balance_loss_weight=0.0, balance_loss="switch"
    )
    return {
        NONE: off,
        AUXILIARY: dataclasses.replace(off, balance_loss_weight=weight),
        LOSS_FREE: dataclasses.replace(off, bias_update_rate=rate),
    }


def train_arms(
    model_config: ModelConfig,
    arms: Mapping[str, TrainConfig],
    corpus: Corpus | None = None,
    *,
    adjust: Callable[[str, TrainConfig], TrainConfig] | None = None,
    on_step: Callable[[dict], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> dict[str, TrainRun]:
    """Train one model per arm: step 1 of every arm, then step 2 of every arm, and so on.

    Arms with the same seed read the same batches and start from the same weights. `adjust` may
    change an arm's configuration at every step; each record stores the γ and α it was made
    with. `should_stop` is called after each round, so all arms do the same number of steps.
    Raises: ValueError for no arms, arms of different lengths, or a corpus that doesn't fit.
    """
    lengths = {config.steps for config in arms.values()}
    if len(lengths) != 1:
        raise ValueError(f"arms: the same number of steps for all expected, got {sorted(lengths)}")
    corpus = load_corpus() if corpus is None else corpus
    for config in arms.values():
        check_fit(model_config, config, corpus)
    keep_freed_memory()
    # Timed only once: on a busy machine each arm might get a different answer and diverge.
    bf16 = bf16_is_faster()
    arms = {
        name: config if config.bf16 is not None else dataclasses.replace(config, bf16=bf16)
        for name, config in arms.items()
    }
    states = {name: fresh_state(model_config, config, corpus) for name, config in arms.items()}
    runs = {name: TrainRun(state.model, []) for name, state in states.items()}
    started = time.perf_counter()
    for _ in range(lengths.pop()):
        for name, state in states.items():
            config = adjust(name, arms[name]) if adjust else arms[name]
            record = train_step(state, config, corpus)
            record["arm"] = name
            record["bias_update_rate"] = config.bias_update_rate
            record["balance_loss_weight"] = config.balance_loss_weight
            record["seconds"] = time.perf_counter() - started
            runs[name].log.append(record)
            if on_step is not None:
                on_step(record)
        if should_stop is not None and should_stop():
            break
    for name, run in runs.items():
        run.stopped = states[name].step < arms[name].steps
        run.model.eval()
    return runs
