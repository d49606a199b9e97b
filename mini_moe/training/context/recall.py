"""Train a model to read text and to find needles in it."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from mini_moe.config import TrainConfig
from mini_moe.model import Routing, Transformer
from mini_moe.ops import cross_entropy
from mini_moe.text import Corpus, sample_batch
from mini_moe.text.needle import Haystack
from mini_moe.training.balance import count_choices, update_all_biases
from mini_moe.training.checkpoint import TrainingDiverged
from mini_moe.training.evaluation import validation_losses
from mini_moe.training.losses import balance_loss
from mini_moe.training.optimizer import begin_step, build_optimizers
from mini_moe.training.speed import bf16_is_faster, keep_freed_memory

EVAL_LENGTH = 256  # tokens a sequence has in the evaluation at the end
EVAL_TOKENS = 8192  # of each domain that it reads
ANSWER_WEIGHT = 2.0  # of the loss of answers beside that of texts


@dataclass(frozen=True, kw_only=True)
class Phase:
    """Steps at one length. Raises: ValueError for a number below one."""

    steps: int
    seq_len: int  # tokens a sequence
    texts: int  # sequences of plain corpus in a batch: the model stays one of language
    rows: int  # sequences with needles in a batch

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
    """Train a model in place, phase after phase, on corpus text and on needles; the log.

    loss = next-token loss of the texts + 2 · loss of the answers in rows with needles + balance.
    Learning rates rise and fall once over all phases; of `config` the steps, batch size and length
    are not used. The same seed gives the same model on one machine.

    Raises: ValueError where a phase doesn't fit the model or the corpus; TrainingDiverged where a
    loss is not finite.
    """
    check_phases(model, phases, corpus)
    keep_freed_memory()
    config = dataclasses.replace(config, steps=sum(phase.steps for phase in phases))
    haystack = Haystack(corpus, "train")
    bf16 = bf16_is_faster() if config.bf16 is None else config.bf16
    optimizers, log = build_optimizers(model, config, bf16), []
    model.train()
    for phase in phases:
        for _ in range(phase.steps):
            step = len(log)
            begin_step(optimizers, step, config)
            losses = recall_step(model, phase, config, corpus, haystack, step, bf16)
            for optimizer in optimizers:
                optimizer.step()
            log.append({"step": step + 1, "seq_len": phase.seq_len} | losses)
            if on_step is not None:
                on_step(log[-1])
    model.eval()
    length = min(EVAL_LENGTH, model.config.max_seq_len)
    log[-1]["validation"] = validation_losses(model, corpus, length, EVAL_TOKENS)
    return log


def recall_step(
    model: Transformer,
    phase: Phase,
    config: TrainConfig,
    corpus: Corpus,
    haystack: Haystack,
    step: int,
    bf16: bool,
) -> dict:
    """Gradients of one batch, and its losses in nats a token; evens the experts' load."""
    length = phase.seq_len + 1
    texts = sample_batch(
        corpus.train, batch=phase.texts, length=length, seed=config.seed, step=step
    ).tokens
    rows = [haystack.row(length, [config.seed, step, row]) for row in range(phase.rows)]
    tokens = torch.cat((texts, torch.stack([row.tokens for row in rows])))
    answers = torch.stack([row.answers for row in rows])[:, 1:]
    routings: list[Routing] = []
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        hidden = model.hidden(tokens[:, :-1], routings=routings)
        targets = tokens[:, 1:]
        plain, asked = hidden[: phase.texts].flatten(0, 1), hidden[phase.texts :][answers]
        text = cross_entropy(model.lm_head(plain), targets[: phase.texts].flatten())
        answer = cross_entropy(model.lm_head(asked), targets[phase.texts :][answers])
        balance = sum(balance_loss(one, config, len(tokens)) for one in routings)
    (text + ANSWER_WEIGHT * answer + config.balance_loss_weight * balance).backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip or math.inf)
    losses = {"text_loss": text.item(), "answer_loss": answer.item(), "gradient_norm": norm.item()}
    if not all(map(math.isfinite, losses.values())):
        raise TrainingDiverged(f"{losses} at step {step + 1}; lower the learning rate")
    if routings and step < (1 - config.bias_freeze_fraction) * config.steps:
        update_all_biases(model, count_choices(routings), config.bias_update_rate)
    return losses


def check_phases(model: Transformer, phases: Sequence[Phase], corpus: Corpus) -> None:
    """Raise ValueError where there is no phase, or one that doesn't fit the model or the corpus."""
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
