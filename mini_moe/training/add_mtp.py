"""`python -m mini_moe.training.add_mtp`: add an MTP module to a finished model.

The module learns to predict one token further ahead than the model, from the model's own hidden
vectors. No gradient flows back: all other weights, and so all the model's outputs, keep their bits.
"""

import argparse
import dataclasses
import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mini_moe.config import TrainConfig
from mini_moe.console import command_line
from mini_moe.device import as_device, device_of
from mini_moe.files import replace_files
from mini_moe.huggingface import load_hf, save_hf
from mini_moe.model import Routing, Transformer
from mini_moe.random_numbers import OwnRandomNumbers
from mini_moe.text import Corpus, load_corpus, sample_batch
from mini_moe.training.loop import check_fit
from mini_moe.training.losses import balance_loss, cross_entropy
from mini_moe.training.optimizer import build_optimizers
from mini_moe.training.run import only_writer
from mini_moe.training.speed import bf16_is_faster, keep_freed_memory
from mini_moe.training.step import optimizer_step


def with_mtp(model: Transformer) -> Transformer:
    """Return a copy with one MTP module, initialised from the last layer; all other weights frozen.

    Raises: ValueError if the model already has an MTP module.
    """
    if model.mtp:
        raise ValueError(f"model: no MTP module expected, got n_mtp_layers={len(model.mtp)}")
    made = Transformer(dataclasses.replace(model.config, n_mtp_layers=1)).to(device_of(model))
    missing, unknown = made.load_state_dict(model.state_dict(), strict=False)
    assert not unknown and all(name.startswith("mtp.") for name in missing)
    made.mtp[0].block.load_state_dict(model.layers[-1].state_dict())
    made.mtp[0].norm.load_state_dict(model.norm.state_dict())
    made.tokenizer = model.tokenizer
    made.requires_grad_(False)
    made.mtp.requires_grad_(True)
    return made.eval()


def add_mtp(
    model: Transformer,
    config: TrainConfig,
    corpus: Corpus,
    on_step: Callable[[dict], None] | None = None,
) -> tuple[Transformer, list[dict]]:
    """Train an MTP module for a finished model, on its device; return both together, and the log.

    Each step: 1. the frozen model's vectors of a batch; 2. the module's loss on the token after
    the next; 3. gradients of the module alone.

    Raises: ValueError if model, text and settings don't fit; TrainingDiverged if a loss is not
    finite.
    Source: the loss of DeepSeek-V3, arXiv 2412.19437 §2.2, equation 24. There the module is trained
    together with the model, and its loss trains the model as well.
    """
    with OwnRandomNumbers(config.seed):
        made = with_mtp(model)
    check_fit(made.config, config, corpus)
    device = device_of(made)
    if device.type == "cpu":
        keep_freed_memory()
    bf16 = bf16_is_faster(device) if config.bf16 is None else config.bf16
    optimizers, log = build_optimizers(made, config, bf16), []
    for step in range(config.steps):
        losses = functools.partial(mtp_losses, made, config, next_tokens(config, corpus, step))
        done = optimizer_step(made.mtp, optimizers, config, step, losses, bf16=bf16)
        record = {"step": step + 1, "mtp_loss": done.losses["mtp"]}
        log.append(record)
        if on_step is not None:
            on_step(record)
    made.requires_grad_(True)
    return made, log


class MtpLosses(NamedTuple):
    """Losses in nats per token."""

    total: Float[Tensor, ""]  # includes the balance loss of the module's experts
    mtp: Float[Tensor, ""]


def next_tokens(config: TrainConfig, corpus: Corpus, step: int) -> Int[Tensor, "batch length"]:
    """Return a batch of rows with two tokens more than the model reads."""
    rows = {"batch": config.batch_size, "length": config.seq_len + 2}
    return sample_batch(corpus.train, **rows, seed=config.seed, step=step).tokens


def mtp_losses(
    made: Transformer,
    config: TrainConfig,
    tokens: Int[Tensor, "batch length"],
    routings: list[Routing],
) -> MtpLosses:
    """Compute the module's losses on a batch; the model supplies vectors but gets no gradient."""
    tokens = tokens.to(device_of(made))
    with torch.no_grad():
        hidden = made.hidden(tokens[:, :-2])
    further = made.mtp_hidden(hidden, tokens[:, 1:-1], routings=routings)
    loss = cross_entropy(made, further, tokens[:, 2:])
    balance = sum(balance_loss(one, config, len(tokens)) for one in routings)
    return MtpLosses(loss + config.balance_loss_weight * balance, loss)


@command_line
def main(arguments: list[str] | None = None) -> int:
    """Train an MTP module for a checkpoint and save both together; return 0 on success.

    Both folders may be the same; an MTP module already in the checkpoint is retrained from scratch.
    """
    options = parser().parse_args(arguments)
    settings = {name: getattr(options, name) for name in ("steps", "batch_size", "seq_len")}
    config = TrainConfig(
        **settings, learning_rate=options.learning_rate, seed=options.seed, warmup_steps=20
    )
    device, every = as_device(options.device), max(1, config.steps // 10)

    def tell(record: dict) -> None:
        if record["step"] % every == 0:
            print(f"step {record['step']}  MTP loss {record['mtp_loss']:.4f}", flush=True)

    with only_writer(options.save):  # a folder that can't be written fails before training
        model = load_hf(options.checkpoint).to(device)
        made, log = add_mtp(model, config, load_corpus(), tell)
        save_hf(made, options.save, dtype=torch.bfloat16)
        kept = (json.dumps(record) + "\n" for record in log if record["step"] % 10 == 0)
        replace_files(options.save, {"mtp_log.jsonl": "".join(kept)})
    return 0


def parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    made = argparse.ArgumentParser(
        prog="python -m mini_moe.training.add_mtp", description=main.__doc__
    )
    made.add_argument("--checkpoint", type=Path, required=True, help="a finished model's folder")
    made.add_argument("--save", type=Path, required=True, help="folder for model and module")
    made.add_argument("--steps", type=int, default=1000, help="default: %(default)s")
    made.add_argument("--batch_size", type=int, default=16, help="default: %(default)s")
    made.add_argument("--seq_len", type=int, default=256, help="default: %(default)s")
    made.add_argument("--learning_rate", type=float, default=0.01, help="default: %(default)s")
    made.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    made.add_argument(
        "--device", default="auto", help="cpu, cuda, mps; default: the best available"
    )
    return made


if __name__ == "__main__":
    sys.exit(main())
