"""Train a model to read text and to find needles in it."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mini_moe.config import TrainConfig
from mini_moe.device import device_of
from mini_moe.model import Routing, Transformer
from mini_moe.ops import cross_entropy
from mini_moe.text import Corpus, sample_batch
from mini_moe.text.needle import Haystack
from mini_moe.training.evaluation import validation_losses
from mini_moe.training.losses import balance_loss
from mini_moe.training.optimizer import build_optimizers
from mini_moe.training.speed import bf16_is_faster, keep_freed_memory
from mini_moe.training.step import optimizer_step

EVAL_LENGTH = 256  # tokens per sequence in the final evaluation
EVAL_TOKENS = 8192  # tokens it reads per domain
ANSWER_WEIGHT = 2.0  # weight of the answers' loss relative to the texts'


@dataclass(frozen=True, kw_only=True)
class Phase:
    """Training steps at one length. Raises: ValueError for a number below one."""

    steps: int
    seq_len: int  # tokens per sequence
    texts: int  # sequences of plain text per batch, so that it remains a language model
    rows: int  # sequences with needles per batch

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if type(value) is not int or value < 1:
                raise ValueError(f"{name}={value!r}: an integer of at least 1 expected")


def train_recall(
    model: Transformer,
    phases: Sequence[Phase],
    config: TrainConfig,
    corpus: Corpus,
    on_step: Callable[[dict], None] | None = None,
) -> list[dict]:
    """Train a model in place, phase by phase, on corpus text and on needles; return the log.

    loss = next-token loss of the texts + 2 · loss of the answers in rows with needles + balance.
    The learning rates rise and fall once over all phases together; the steps, batch size and
    length in `config` are ignored. The model is trained on its own device; on one machine, the same
    seed gives the same model.

    Raises: ValueError if a phase doesn't fit the model or the corpus; TrainingDiverged if a loss is
    not finite.
    """
    check_phases(model, phases, corpus)
    config = dataclasses.replace(config, steps=sum(phase.steps for phase in phases))
    device, haystack = device_of(model), Haystack(corpus, "train")
    if device.type == "cpu":
        keep_freed_memory()
    bf16 = bf16_is_faster(device) if config.bf16 is None else config.bf16
    optimizers, log = build_optimizers(model, config, bf16), []
    model.train()
    for step, phase in enumerate(one for one in phases for _ in range(one.steps)):
        batch = recall_batch(phase, config, corpus, haystack, step)
        losses = functools.partial(recall_losses, model, config, batch)
        done = optimizer_step(model, optimizers, config, step, losses, bf16=bf16)
        log.append(
            {
                "step": step + 1,
                "seq_len": phase.seq_len,
                "text_loss": done.losses["text"],
                "answer_loss": done.losses["answer"],
                "gradient_norm": done.gradient_norm,
            }
        )
        if on_step is not None:
            on_step(log[-1])
    model.eval()
    length = min(EVAL_LENGTH, model.config.max_seq_len)
    log[-1]["validation"] = validation_losses(model, corpus, length, EVAL_TOKENS)
    return log


class RecallBatch(NamedTuple):
    """Rows of plain text followed by rows with needles, all of the same length."""

    tokens: Int[Tensor, "rows length"]
    texts: int  # how many rows are plain text
    asked: Int[Tensor, "answers"]  # positions of the answers in the needle rows, laid end to end


def recall_batch(
    phase: Phase, config: TrainConfig, corpus: Corpus, haystack: Haystack, step: int
) -> RecallBatch:
    """Return the batch of one step, which depends only on seed and step."""
    length = phase.seq_len + 1
    texts = sample_batch(
        corpus.train, batch=phase.texts, length=length, seed=config.seed, step=step
    ).tokens
    rows = [haystack.row(length, [config.seed, step, row]) for row in range(phase.rows)]
    tokens = torch.cat((texts, torch.stack([row.tokens for row in rows])))
    answers = torch.stack([row.answers for row in rows])[:, 1:]
    return RecallBatch(tokens, phase.texts, answers.flatten().nonzero().squeeze(1))


class RecallLosses(NamedTuple):
    """Losses in nats per token."""

    total: Float[Tensor, ""]
    text: Float[Tensor, ""]
    answer: Float[Tensor, ""]


def recall_losses(
    model: Transformer, config: TrainConfig, batch: RecallBatch, routings: list[Routing]
) -> RecallLosses:
    """Compute a batch's losses: over every token of the texts, and over the answers only."""
    device = device_of(model)
    tokens, asked = batch.tokens.to(device), batch.asked.to(device)
    hidden, targets = model.hidden(tokens[:, :-1], routings=routings), tokens[:, 1:]
    read, answers = hidden[: batch.texts].flatten(0, 1), hidden[batch.texts :].flatten(0, 1)[asked]
    text = cross_entropy(model.lm_head(read), targets[: batch.texts].flatten())
    answer = cross_entropy(model.lm_head(answers), targets[batch.texts :].flatten()[asked])
    balance = sum(balance_loss(one, config, len(tokens)) for one in routings)
    total = text + ANSWER_WEIGHT * answer + config.balance_loss_weight * balance
    return RecallLosses(total, text, answer)


def check_phases(model: Transformer, phases: Sequence[Phase], corpus: Corpus) -> None:
    """Raise ValueError unless there is at least one phase and all fit the model and the corpus."""
    if not phases:
        raise ValueError("phases: at least one expected")
    if corpus.tokenizer.vocab_size > model.config.vocab_size:
        raise ValueError(
            f"vocab_size={model.config.vocab_size} is smaller than the tokenizer's "
            f"{corpus.tokenizer.vocab_size}"
        )
    longest = max(phase.seq_len for phase in phases)
    if longest > model.config.max_seq_len:
        raise ValueError(f"seq_len={longest} is more than max_seq_len={model.config.max_seq_len}")
    if corpus.train.n_tokens <= longest:
        raise ValueError(
            f"seq_len={longest} needs rows of {longest + 1} tokens, but the text to train on has "
            f"{corpus.train.n_tokens}"
        )
