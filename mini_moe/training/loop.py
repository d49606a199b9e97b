"""The training loop, top to bottom."""

import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm.auto import tqdm

from mini_moe.config import ModelConfig, TrainConfig
from mini_moe.model import Routing, Transformer
from mini_moe.random_numbers import OwnRandomNumbers
from mini_moe.routing import max_violation
from mini_moe.text import Corpus, load_corpus, sample_batch
from mini_moe.training.balance import count_choices, update_all_biases
from mini_moe.training.checkpoint import (
    LOG,
    TrainingDiverged,
    TrainingState,
    cut_log,
    latest_checkpoint,
    restore_checkpoint,
    save_checkpoint,
)
from mini_moe.training.evaluation import validation_losses
from mini_moe.training.losses import training_losses
from mini_moe.training.optimizer import begin_step, build_optimizers
from mini_moe.training.speed import (
    bf16_is_faster,
    flops_per_token,
    keep_freed_memory,
    matmul_peak,
)


@dataclass
class TrainRun:
    """What a run leaves: the model, every line of its log, and whether it was stopped early."""

    model: Transformer
    log: list[dict]
    stopped: bool = False


def train(
    model_config: ModelConfig,
    train_config: TrainConfig,
    corpus: Corpus | None = None,
    *,
    folder: str | Path | None = None,
    on_step: Callable[[dict], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    progress: bool = True,
) -> TrainRun:
    """Train a model from its configuration alone.

    1. model, optimizers, and what a checkpoint in `folder` knows better
    2. each step: batch → losses → gradients → clip → optimizers → expert bias → log
    3. now and then: validation loss per domain; a checkpoint

    With a `folder`, the log goes to log.jsonl and checkpoints to step_N; a run that was interrupted
    continues from the newest and ends with the same bits. `on_step` sees every log record;
    `should_stop` is asked after every step, and Ctrl-C is heard there as well: both end the run
    with a checkpoint. Without a corpus, the one that `python -m mini_moe.text` built is used.

    Raises: ValueError when the corpus doesn't fit the model or the folder holds another run;
    TrainingDiverged, naming the step, when a loss is not finite, and OSError when the disk is full:
    the last checkpoint stays.
    """
    corpus = load_corpus() if corpus is None else corpus
    check_fit(model_config, train_config, corpus)
    keep_freed_memory()
    state = fresh_state(model_config, train_config, corpus)
    folder = None if folder is None else Path(folder)
    log = [] if folder is None else continue_run(folder, model_config, train_config, corpus, state)
    peak = matmul_peak(torch.bfloat16 if state.bf16 else torch.float32)
    flops = flops_per_token(state.model, train_config.seq_len)
    run = TrainRun(state.model, log)

    with (
        interrupt_flag() as interrupted,
        open_log(folder) as write,
        tqdm(
            total=train_config.steps, initial=state.step, disable=not progress, leave=False
        ) as bar,
    ):
        while state.step < train_config.steps and not run.stopped:
            record = timed_step(state, train_config, corpus)
            record["flops_utilisation"] = record["tokens_per_second"] * flops / peak
            last = state.step == train_config.steps
            if last or state.step % train_config.eval_every == 0:
                record["validation"] = evaluate(state, train_config, corpus)
            if last or "validation" in record or state.step % train_config.log_every == 0:
                log.append(record)
                write(record)
            if on_step is not None:
                on_step(record)
            bar.update()
            bar.set_postfix(
                loss=f"{record['loss']:.3f}", tokens_per_s=f"{record['tokens_per_second']:.0f}"
            )

            run.stopped = interrupted() or bool(should_stop and should_stop())
            due = train_config.checkpoint_every and state.step % train_config.checkpoint_every == 0
            if folder is not None and (last or due or run.stopped):
                save_checkpoint(folder, state, train_config, corpus)
    run.stopped = run.stopped and state.step < train_config.steps
    state.model.eval()
    return run


def continue_run(
    folder: Path, model_config: ModelConfig, train_config: TrainConfig, corpus: Corpus,
    state: TrainingState,
) -> list[dict]:  # fmt: skip
    """Bring a fresh state to a folder's newest checkpoint, if it has one; the log up to there."""
    folder.mkdir(parents=True, exist_ok=True)
    if newest := latest_checkpoint(folder):
        restore_checkpoint(newest, model_config, train_config, corpus, state)
    return cut_log(folder, state.step)


def timed_step(state: TrainingState, config: TrainConfig, corpus: Corpus) -> dict:
    """`train_step`, its record with the seconds since the run's beginning and tokens a second."""
    started = time.perf_counter()
    record = train_step(state, config, corpus)
    elapsed = time.perf_counter() - started
    state.seconds += elapsed
    rate = config.batch_size * config.seq_len / elapsed
    return record | {"seconds": state.seconds, "tokens_per_second": rate}


def train_step(state: TrainingState, config: TrainConfig, corpus: Corpus) -> dict:
    """One step of the optimizer on batch number `state.step`; its log record."""
    model, step = state.model, state.step
    length = config.seq_len + 1 + model.config.n_mtp_layers
    batch = sample_batch(
        corpus.train, batch=config.batch_size, length=length, seed=config.seed, step=step
    )
    factor = begin_step(state.optimizers, step, config)
    model.train()
    routings: list[Routing] = []
    device = model.embed_tokens.weight.device
    with torch.autocast(device.type, torch.bfloat16, enabled=state.bf16):
        losses = training_losses(model, batch.tokens.to(device), config, routings)
    losses.total.backward()
    most = config.grad_clip or math.inf
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), most)
    if not math.isfinite(losses.total.item()) or not math.isfinite(norm.item()):
        raise TrainingDiverged(
            f"loss {losses.total.item()}, gradient norm {norm.item()} at step {step + 1}; "
            "no weight was changed by it. Lower the learning rate, or clip gradients harder"
        )
    for optimizer in state.optimizers:
        optimizer.step()
    state.step = step + 1

    record = {
        "step": state.step,
        "loss": losses.next_token.item(),
        "mtp_loss": losses.mtp.item(),
        "balance_loss": losses.balance.item(),
        "z_loss": losses.z.item(),
        "gradient_norm": norm.item(),
        "learning_rate": factor * config.learning_rate,
    }
    if routings:
        counts = count_choices(routings)
        if state.step <= (1 - config.bias_freeze_fraction) * config.steps:
            update_all_biases(model, counts, config.bias_update_rate, config.bias_update)
        load = counts / counts.sum(dim=-1, keepdim=True)
        record["load"] = [[round(share, 6) for share in layer] for layer in load.tolist()]
        record["max_violation"] = max_violation(load).tolist()
    return record


def evaluate(state: TrainingState, config: TrainConfig, corpus: Corpus) -> dict[str, float]:
    """Validation loss per domain, in the precision of training."""
    state.model.eval()
    with torch.autocast("cpu", torch.bfloat16, enabled=state.bf16):
        losses = validation_losses(state.model, corpus, config.seq_len, config.eval_tokens)
    if not math.isfinite(losses["all"]):
        raise TrainingDiverged(f"validation loss {losses['all']} after step {state.step}")
    return losses


def fresh_state(
    model_config: ModelConfig, train_config: TrainConfig, corpus: Corpus
) -> TrainingState:
    """A model initialised from the seed, and its optimizers."""
    with OwnRandomNumbers(train_config.seed):
        model = Transformer(model_config)
    model.tokenizer = corpus.tokenizer
    bf16 = bf16_is_faster() if train_config.bf16 is None else train_config.bf16
    return TrainingState(model, build_optimizers(model, train_config, bf16), 0, bf16, 0.0)


def check_fit(model_config: ModelConfig, train_config: TrainConfig, corpus: Corpus) -> None:
    """Raise ValueError when text, model and training don't fit each other."""
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


@contextmanager
def open_log(folder: Path | None) -> Iterator[Callable[[dict], None]]:
    """A function that appends a record to the run's log.jsonl; does nothing without a folder."""
    if folder is None:
        yield lambda record: None
        return
    with (folder / LOG).open("a", encoding="utf-8", buffering=1) as file:
        yield lambda record: file.write(json.dumps(record) + "\n")


@contextmanager
def interrupt_flag() -> Iterator[Callable[[], bool]]:
    """Inside, the first Ctrl-C sets a flag and the second interrupts; only in the main thread."""
    flag = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield flag.is_set
        return

    def note(*_: object) -> None:
        flag.set()
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield flag.is_set
    finally:
        signal.signal(signal.SIGINT, before)
