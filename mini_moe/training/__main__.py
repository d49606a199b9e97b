"""`python -m mini_moe.training`: train from the command line."""

import argparse
import dataclasses
import json
import sys
from pathlib import Path

import torch

from mini_moe import presets
from mini_moe.config import ModelConfig, TrainConfig
from mini_moe.console import command_line
from mini_moe.device import as_device
from mini_moe.files import replace_files
from mini_moe.huggingface import save_hf
from mini_moe.text import Corpus, load_corpus
from mini_moe.training.checkpoint import latest_checkpoint
from mini_moe.training.loop import train
from mini_moe.training.run import LOG, only_writer

PRESETS = {"tiny": presets.tiny, "small": presets.small}


@command_line
def main(arguments: list[str] | None = None) -> int:
    """Train, print the losses, and save the model; the exit status is 0 on success."""
    options = parser().parse_args(arguments)
    corpus = load_corpus() if options.text is None else read(options)
    model_config = model_configuration(options, corpus)
    train_config = TrainConfig(**given(options, TrainConfig))
    device = as_device(options.device)
    with only_writer(options.save):  # a folder that can't be written fails before training
        run = train(model_config, train_config, corpus, folder=options.folder, device=device)
        if options.save is not None:
            save_hf(run.model, options.save, dtype=torch.bfloat16)
            lines = "".join(json.dumps(record) + "\n" for record in run.log)
            replace_files(options.save, {LOG: lines})
    for record in run.log:
        if "validation" in record:
            losses = "  ".join(f"{name} {loss:.4f}" for name, loss in record["validation"].items())
            print(f"step {record['step']}  {record['seconds']:.1f} s  {losses}")
    if run.stopped:
        newest = options.folder and latest_checkpoint(options.folder)
        print("stopped early" + (f"; the same command continues from {newest}" if newest else ""))
    return 0


def parser() -> argparse.ArgumentParser:
    """Build the parser: data and folders, then every field of both configurations."""
    made = argparse.ArgumentParser(
        prog="python -m mini_moe.training",
        usage="%(prog)s [--preset NAME] [--folder FOLDER] [--FIELD VALUE ...] (--help lists all)",
        description=main.__doc__,
    )
    made.add_argument(
        "--preset", choices=sorted(PRESETS), default="tiny", help="model to start from"
    )
    made.add_argument("--folder", type=Path, help="folder for log and checkpoints; resumes its run")
    made.add_argument("--save", type=Path, help="folder for the model (bfloat16) and log")
    made.add_argument(
        "--device", default="auto", help="cpu, cuda, mps; default: the best available"
    )
    made.add_argument("--text", type=Path, help="a UTF-8 file to train on instead of the corpus")
    made.add_argument("--tokenizer", choices=("char", "bpe"), default="char", help="for --text")
    for config in (TrainConfig, ModelConfig):
        group = made.add_argument_group(config.__name__)
        for field in dataclasses.fields(config):
            group.add_argument(
                f"--{field.name}", type=convert, metavar="VALUE", default=argparse.SUPPRESS
            )
    return made


def convert(text: str) -> object:
    """Convert an option's text to None, a boolean, a number or a pair of numbers, if it is one."""
    if text in ("None", "True", "False"):
        return {"None": None, "True": True, "False": False}[text]
    for kind in (int, float, lambda pair: tuple(float(part) for part in pair.split(","))):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def given(options: argparse.Namespace, config: type) -> dict:
    """Return the fields of a configuration that were given on the command line."""
    names = {field.name for field in dataclasses.fields(config)}
    return {name: value for name, value in vars(options).items() if name in names}


def read(options: argparse.Namespace) -> Corpus:
    """Return the corpus of --text."""
    return Corpus.from_text(options.text, tokenizer=options.tokenizer)


def model_configuration(options: argparse.Namespace, corpus: Corpus) -> ModelConfig:
    """Return the preset with the command line's changes and the corpus's vocabulary size."""
    changes = {"vocab_size": corpus.tokenizer.vocab_size} | given(options, ModelConfig)
    return dataclasses.replace(PRESETS[options.preset](), **changes)


if __name__ == "__main__":
    sys.exit(main())
