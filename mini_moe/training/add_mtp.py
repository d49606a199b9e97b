"""`python -m mini_moe.training.add_mtp`: give a finished model an MTP module, itself untouched.

The module is trained to foresee one token further than the model, from the model's own vectors.
Nothing flows back: every other weight stays as it is, bit by bit, and so does all that it writes.
"""

import argparse
import dataclasses
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from mini_moe.config import TrainConfig
from mini_moe.console import command_line
from mini_moe.files import replace_files
from mini_moe.huggingface import load_hf, save_hf
from mini_moe.model import Transformer
from mini_moe.text import Corpus, load_corpus, sample_batch
from mini_moe.training.balance import count_choices, update_expert_bias
from mini_moe.training.checkpoint import TrainingDiverged
from mini_moe.training.loop import check_fit
from mini_moe.training.losses import balance_loss, cross_entropy
from mini_moe.training.optimizer import begin_step, build_optimizers
from mini_moe.training.speed import bf16_is_faster, keep_freed_memory


def with_mtp(model: Transformer) -> Transformer:
    """A copy with one MTP module, its block that of the last layer, all other weights frozen.

    Raises: ValueError where the model already has one.
    """
    if model.mtp:
        raise ValueError(f"model: no MTP module expected, got n_mtp_layers={len(model.mtp)}")
    made = Transformer(dataclasses.replace(model.config, n_mtp_layers=1))
    missing, unknown = made.load_state_dict(model.state_dict(), strict=False)
    assert not unknown and all(name.startswith("mtp.") for name in missing)
    made.mtp[0].block.load_state_dict(model.layers[-1].state_dict())
    made.mtp[0].norm.load_state_dict(model.norm.state_dict())
    made.tokenizer = model.tokenizer
    made.requires_grad_(False)
    made.mtp.requires_grad_(True)
    return made.eval()


@torch.random.fork_rng(devices=[])
def add_mtp(
    model: Transformer,
    config: TrainConfig,
    corpus: Corpus,
    on_step: Callable[[dict], None] | None = None,
) -> tuple[Transformer, list[dict]]:
    """Train an MTP module for a finished model; the model with it, and the log.

    Each step: 1. the frozen model's vectors of a batch; 2. the module's loss on the token after
    the next; 3. gradients of the module alone.

    Raises: ValueError where model, text and settings don't fit; TrainingDiverged where a loss is
    not finite.
    Source: the loss is that of DeepSeek-V3, arXiv 2412.19437 §2.2, equation 24; there the module
    is trained with the model, and the model for it.
    """
    torch.manual_seed(config.seed)
    made = with_mtp(model)
    check_fit(made.config, config, corpus)
    keep_freed_memory()
    bf16 = bf16_is_faster() if config.bf16 is None else config.bf16
    optimizers, log = build_optimizers(made, config, bf16), []
    for step in range(config.steps):
        begin_step(optimizers, step, config)
        record = {"step": step + 1, "mtp_loss": train_step(made, config, corpus, step, bf16)}
        for optimizer in optimizers:
            optimizer.step()
        log.append(record)
        if on_step is not None:
            on_step(record)
    made.requires_grad_(True)
    return made, log


def train_step(
    made: Transformer, config: TrainConfig, corpus: Corpus, step: int, bf16: bool
) -> float:
    """Gradients of the module for one batch, and its loss in nats a token."""
    batch = sample_batch(
        corpus.train, batch=config.batch_size, length=config.seq_len + 2, seed=config.seed,
        step=step,
    )  # fmt: skip
    tokens, routings = batch.tokens, []
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        with torch.no_grad():
            hidden = made.hidden(tokens[:, :-2])
        further = made.mtp_hidden(hidden, tokens[:, 1:-1], routings=routings)
        loss = cross_entropy(made, further, tokens[:, 2:])
        balance = sum(balance_loss(one, config, len(tokens)) for one in routings)
    (loss + config.balance_loss_weight * balance).backward()
    norm = torch.nn.utils.clip_grad_norm_(made.mtp.parameters(), config.grad_clip or math.inf)
    if not math.isfinite(loss.item()) or not math.isfinite(norm.item()):
        raise TrainingDiverged(
            f"loss {loss.item()}, gradient norm {norm.item()} at step {step + 1}"
        )
    bias = made.mtp[0].block.mlp.gate.e_score_correction_bias if routings else None
    if bias is not None and step < (1 - config.bias_freeze_fraction) * config.steps:
        update_expert_bias(bias, count_choices(routings)[0], config.bias_update_rate)
    return loss.item()


@command_line
def main(arguments: list[str] | None = None) -> int:
    """Train an MTP module for a checkpoint and save both together; 0 where all went well.

    Both folders may be one; a module that the checkpoint has already is made anew.
    """
    options = parser().parse_args(arguments)
    settings = {name: getattr(options, name) for name in ("steps", "batch_size", "seq_len")}
    config = TrainConfig(
        **settings, learning_rate=options.learning_rate, seed=options.seed, warmup_steps=20
    )
    options.save.mkdir(parents=True, exist_ok=True)  # fails now rather than after training
    every = max(1, config.steps // 10)

    def tell(record: dict) -> None:
        if record["step"] % every == 0:
            print(f"step {record['step']}  MTP loss {record['mtp_loss']:.4f}", flush=True)

    made, log = add_mtp(load_hf(options.checkpoint), config, load_corpus(), tell)
    save_hf(made, options.save, dtype=torch.bfloat16)
    lines = "".join(json.dumps(record) + "\n" for record in log if record["step"] % 10 == 0)
    replace_files(options.save, {"mtp_log.jsonl": lines})
    return 0


def parser() -> argparse.ArgumentParser:
    """Options of the command line."""
    made = argparse.ArgumentParser(
        prog="python -m mini_moe.training.add_mtp", description=main.__doc__
    )
    made.add_argument("--checkpoint", type=Path, required=True, help="a finished model's folder")
    made.add_argument("--save", type=Path, required=True, help="where model and module go")
    made.add_argument("--steps", type=int, default=1000, help="default: %(default)s")
    made.add_argument("--batch_size", type=int, default=16, help="default: %(default)s")
    made.add_argument("--seq_len", type=int, default=256, help="default: %(default)s")
    made.add_argument("--learning_rate", type=float, default=0.01, help="default: %(default)s")
    made.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    return made


if __name__ == "__main__":
    sys.exit(main())
