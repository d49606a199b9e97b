"""`python -m mini_moe.training.context`: train the needle model, then extend its context."""

import argparse
import dataclasses
import json
import math
import sys
from pathlib import Path

import torch

from mini_moe import presets
from mini_moe.config import TrainConfig
from mini_moe.console import command_line
from mini_moe.device import as_device
from mini_moe.files import replace_files
from mini_moe.huggingface import load_hf, save_hf
from mini_moe.model import Transformer
from mini_moe.random_numbers import OwnRandomNumbers
from mini_moe.text import Corpus, load_corpus
from mini_moe.training.context.extend import extend
from mini_moe.training.context.recall import Phase, train_recall
from mini_moe.training.run import LOG, only_writer

# short texts first: copying is learnt quickly when text and question are close together
BASE = (
    Phase(steps=1000, seq_len=128, texts=8, rows=20),
    Phase(steps=2000, seq_len=256, texts=8, rows=8),
)
LONGER = (
    Phase(steps=200, seq_len=1024, texts=4, rows=10),
    Phase(steps=100, seq_len=4096, texts=1, rows=3),
)


@command_line
def main(arguments: list[str] | None = None) -> int:
    """Train the base model at 256 tokens, or extend it to 4,096; return 0 on success."""
    options = parser().parse_args(arguments)
    config = TrainConfig(
        learning_rate=options.learning_rate,
        adamw_learning_rate=0.3 * options.learning_rate,
        seed=options.seed,
    )
    options.device = as_device(options.device)
    with only_writer(options.save):  # a folder that can't be written fails before training
        model, log = options.run(options, config, load_corpus())
        save_hf(model, options.save, dtype=torch.bfloat16)
        lines = "".join(json.dumps(record) + "\n" for record in log if kept(record))
        replace_files(options.save, {LOG: lines})
    print("  ".join(f"{name} {loss:.3f}" for name, loss in log[-1]["validation"].items()))
    return 0


def run_base(
    options: argparse.Namespace, config: TrainConfig, corpus: Corpus
) -> tuple[Transformer, list[dict]]:
    """Train a new model at the original length."""
    with OwnRandomNumbers(config.seed):
        model = Transformer(presets.needle()).to(options.device)
    model.tokenizer = corpus.tokenizer
    phases = shortened(BASE, options.share)
    return model, train_recall(model, phases, config, corpus, told(phases))


def run_extend(
    options: argparse.Namespace, config: TrainConfig, corpus: Corpus
) -> tuple[Transformer, list[dict]]:
    """Extend a checkpoint to the longer lengths."""
    phases = shortened(LONGER, options.share)
    model = load_hf(options.checkpoint).to(options.device)
    return extend(model, options.factor, phases, config, corpus, told(phases))


def shortened(phases: tuple[Phase, ...], share: float) -> list[Phase]:
    """Return the same phases with a share of their steps, at least one each."""
    if not 0 < share < math.inf:
        raise ValueError(f"share={share} must be above 0, and finite")
    return [dataclasses.replace(p, steps=max(1, round(p.steps * share))) for p in phases]


def told(phases: list[Phase]):
    """Return a function that prints about twenty of a run's records."""
    every = max(1, sum(phase.steps for phase in phases) // 20)

    def tell(record: dict) -> None:
        if record["step"] % every == 0:
            print(
                f"step {record['step']}  length {record['seq_len']}  text {record['text_loss']:.3f}"
                f"  answers {record['answer_loss']:.3f}",
                flush=True,
            )

    return tell


def kept(record: dict) -> bool:
    """Return whether a record goes into the log: every tenth, and the last."""
    return record["step"] % 10 == 0 or "validation" in record


def parser() -> argparse.ArgumentParser:
    """Build the parser: two commands and their options."""
    made = argparse.ArgumentParser(prog="python -m mini_moe.training.context", description=__doc__)
    commands = made.add_subparsers(required=True, metavar="base | extend")
    base = commands.add_parser("base", help=run_base.__doc__)
    base.set_defaults(run=run_base)
    longer = commands.add_parser("extend", help=run_extend.__doc__)
    longer.set_defaults(run=run_extend)
    longer.add_argument("--checkpoint", type=Path, required=True, help="a model without YaRN")
    longer.add_argument("--factor", type=float, default=16.0, help="YaRN's s (default: 16)")
    for command, rate in ((base, 0.007), (longer, 0.005)):
        add = command.add_argument
        add("--save", type=Path, required=True, help="folder for the model (bfloat16) and log")
        add("--share", type=float, default=1.0, help="share of the shipped models' steps")
        add("--learning_rate", type=float, default=rate, help="default: %(default)s")
        add("--seed", type=int, default=0, help="default: %(default)s")
        add("--device", default="auto", help="cpu, cuda, mps; default: the best available")
    return made


if __name__ == "__main__":
    sys.exit(main())
