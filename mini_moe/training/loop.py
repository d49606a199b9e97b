"""The training loop, top to bottom."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from mini_moe.config import ModelConfig, TrainConfig
from mini_moe.device import CPU, as_device, device_of, wait_for
from mini_moe.model import Routing, Transformer
from mini_moe.random_numbers import OwnRandomNumbers
from mini_moe.routing import max_violation
from mini_moe.text import Corpus, load_corpus, sample_batch
from mini_moe.training.checkpoint import (
    TrainingDiverged,
    TrainingState,
    cut_log,
    latest_checkpoint,
    restore_checkpoint,
    save_checkpoint,
)
from mini_moe.training.evaluation import validation_losses
from mini_moe.training.losses import Losses, training_losses
from mini_moe.training.optimizer import build_optimizers
from mini_moe.training.run import interrupt_flag, only_writer, open_log, progress_bar
from mini_moe.training.speed import (
    bf16_is_faster,
    flops_per_token,
    keep_freed_memory,
    matmul_peak,
)
from mini_moe.training.step import Step, optimizer_step


@dataclass
class TrainRun:
    """The result of a run: the model, every line of its log, and whether it was stopped early."""

    model: Transformer
    log: list[dict]
    stopped: bool = False


def train(
    model_config: ModelConfig,
    train_config: TrainConfig,
    corpus: Corpus | None = None,
    *,
    folder: str | Path | None = None,
    device: str | torch.device | None = "cpu",
    on_step: Callable[[dict], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    progress: bool = True,
) -> TrainRun:
    """Train a model from its configuration alone.

    1. build the model and optimizers, or restore them from the newest checkpoint in `folder`
    2. each step: batch → losses → gradients → clip → optimizers → expert bias → log
    3. at intervals: validation loss per domain; a checkpoint

    With a `folder`, the log goes to log.jsonl and checkpoints to step_N. An interrupted run resumes
    from the newest checkpoint; on a CPU it ends with the same bits as an uninterrupted one.
    `on_step` receives every log record. `should_stop` and Ctrl-C are checked after every step;
    either ends the run with a checkpoint. The default corpus is the one that
    `python -m mini_moe.text` built. `device` is any name that `as_device` accepts, "auto" for the
    best one; a seed gives the same initial weights on all of them.

    Raises: ValueError if the corpus doesn't fit the model, the device doesn't exist, or the folder
    holds another run; TrainingDiverged, naming the step, if a loss is not finite, and OSError if
    the disk is full: the last checkpoint is kept.
    """
    device = as_device(device)
    corpus = load_corpus() if corpus is None else corpus
    check_fit(model_config, train_config, corpus)
    if device.type == "cpu":
        keep_freed_memory()
    folder = None if folder is None else Path(folder)
    with only_writer(folder):
        state = fresh_state(model_config, train_config, corpus, device)
        run = TrainRun(state.model, continue_run(folder, state, train_config, corpus))
        with (
            interrupt_flag() as interrupted,
            open_log(folder) as write,
            progress_bar(train_config.steps, state.step, progress) as show,
        ):
            for record in steps(state, train_config, corpus):
                if "validation" in record or due(state, train_config, train_config.log_every):
                    run.log.append(record)
                    write(record)
                if on_step is not None:
                    on_step(record)
                show(record)
                run.stopped = interrupted() or bool(should_stop and should_stop())
                if run.stopped or due(state, train_config, train_config.checkpoint_every):
                    save(folder, state, train_config, corpus)
                if run.stopped:
                    break
    run.stopped = run.stopped and state.step < train_config.steps
    state.model.eval()
    return run


def steps(state: TrainingState, config: TrainConfig, corpus: Corpus) -> Iterator[dict]:
    """Run the remaining steps; yield one log record each, with an evaluation when due."""
    peak = matmul_peak(torch.bfloat16 if state.bf16 else torch.float32, device_of(state.model))
    flops = flops_per_token(state.model, config.seq_len)
    while state.step < config.steps:
        record = timed_step(state, config, corpus)
        record["flops_utilisation"] = record["tokens_per_second"] * flops / peak
        if due(state, config, config.eval_every):
            record["validation"] = evaluate(state, config, corpus)
        yield record


def due(state: TrainingState, config: TrainConfig, every: int) -> bool:
    """Return whether this step is a multiple of `every` or the last; 0 means only the last."""
    return state.step == config.steps or bool(every) and state.step % every == 0


def continue_run(
    folder: Path | None, state: TrainingState, config: TrainConfig, corpus: Corpus
) -> list[dict]:
    """Restore a folder's newest checkpoint, if any; return the log up to that step."""
    if folder is None:
        return []
    if newest := latest_checkpoint(folder):
        restore_checkpoint(newest, state.model.config, config, corpus, state)
    return cut_log(folder, state.step)


def save(folder: Path | None, state: TrainingState, config: TrainConfig, corpus: Corpus) -> None:
    """Write a checkpoint to the run's folder, if it has one."""
    if folder is not None:
        save_checkpoint(folder, state, config, corpus)


def timed_step(state: TrainingState, config: TrainConfig, corpus: Corpus) -> dict:
    """Run `train_step`; add the run's seconds so far and the tokens per second to its record."""
    started = time.perf_counter()
    record = train_step(state, config, corpus)
    wait_for(device_of(state.model))
    elapsed = time.perf_counter() - started
    state.seconds += elapsed
    rate = config.batch_size * config.seq_len / elapsed
    return record | {"seconds": state.seconds, "tokens_per_second": rate}


def train_step(state: TrainingState, config: TrainConfig, corpus: Corpus) -> dict:
    """Take one optimizer step on batch number `state.step`; return its log record."""
    model = state.model
    length = config.seq_len + 1 + model.config.n_mtp_layers
    batch = sample_batch(
        corpus.train, batch=config.batch_size, length=length, seed=config.seed, step=state.step
    )
    tokens = batch.tokens.to(device_of(model))
    model.train()

    def losses(routings: list[Routing]) -> Losses:
        return training_losses(model, tokens, config, routings)

    done = optimizer_step(model, state.optimizers, config, state.step, losses, bf16=state.bf16)
    state.step += 1
    return log_record(done, state.step, config)


def log_record(done: Step, step: int, config: TrainConfig) -> dict:
    """Return a step's results under the names used in the log."""
    record = {
        "step": step,
        "loss": done.losses["next_token"],
        "mtp_loss": done.losses["mtp"],
        "balance_loss": done.losses["balance"],
        "z_loss": done.losses["z"],
        "gradient_norm": done.gradient_norm,
        "learning_rate": done.rate * config.learning_rate,
    }
    if done.counts is not None:
        counts = done.counts.cpu()
        load = counts / counts.sum(dim=-1, keepdim=True)
        record["load"] = [[round(share, 6) for share in layer] for layer in load.tolist()]
        record["max_violation"] = max_violation(load).tolist()
    return record


def evaluate(state: TrainingState, config: TrainConfig, corpus: Corpus) -> dict[str, float]:
    """Return the validation loss per domain, in the precision of training."""
    state.model.eval()
    with torch.autocast(device_of(state.model).type, torch.bfloat16, enabled=state.bf16):
        losses = validation_losses(state.model, corpus, config.seq_len, config.eval_tokens)
    if not math.isfinite(losses["all"]):
        raise TrainingDiverged(f"validation loss {losses['all']} after step {state.step}")
    return losses


def fresh_state(
    model_config: ModelConfig,
    train_config: TrainConfig,
    corpus: Corpus,
    device: torch.device = CPU,
) -> TrainingState:
    """Initialise a model from the seed, and its optimizers."""
    with OwnRandomNumbers(train_config.seed):
        model = Transformer(model_config)
    model.tokenizer = corpus.tokenizer
    model.to(device)
    bf16 = bf16_is_faster(device) if train_config.bf16 is None else train_config.bf16
    return TrainingState(model, build_optimizers(model, train_config, bf16), 0, bf16, 0.0)


def check_fit(model_config: ModelConfig, train_config: TrainConfig, corpus: Corpus) -> None:
    """Raise ValueError unless text, model and training fit each other."""
    if corpus.tokenizer.vocab_size > model_config.vocab_size:
        raise ValueError(
            f"vocab_size={model_config.vocab_size} is smaller than the tokenizer's "
            f"{corpus.tokenizer.vocab_size}"
        )
    if train_config.seq_len > model_config.max_seq_len:
        raise ValueError(
            f"seq_len={train_config.seq_len} is more than max_seq_len={model_config.max_seq_len}"
        )
    length = train_config.seq_len + 1 + model_config.n_mtp_layers
    if corpus.train.n_tokens < length:
        raise ValueError(
            f"seq_len={train_config.seq_len} needs rows of {length} tokens, but the text to train "
            f"on has {corpus.train.n_tokens}"
        )
    most = train_config.eval_tokens or math.inf
    for name, split in corpus.validation_by_domain.items():
        if min(most, split.n_tokens) < 2:
            raise ValueError(
                f"validation needs two tokens, but {name!r} has {split.n_tokens}, "
                f"eval_tokens={train_config.eval_tokens}"
            )
