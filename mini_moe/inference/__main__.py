"""`python -m mini_moe.inference`: generate text and print it as it is written."""

import argparse
import sys
from pathlib import Path

from mini_moe.console import command_line, text_argument
from mini_moe.device import as_device
from mini_moe.folders import data_folder
from mini_moe.huggingface import load_hf
from mini_moe.inference.generate import stream
from mini_moe.inference.sampling import Sampling


@command_line
def main(arguments: list[str] | None = None) -> int:
    """Print a prompt and what the model writes after it, as it is written.

    The exit status is 0 on success, 1 after an error and 130 after an interruption.
    """
    options = parser().parse_args(arguments)
    sampling = Sampling(
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        min_p=options.min_p,
        repetition_penalty=options.repetition_penalty,
    )
    device = as_device(options.device)
    model = load_hf(options.checkpoint, mtp=options.ahead != 0).to(device)
    pieces = stream(
        model,
        options.prompt,
        options.max_new_tokens,
        sampling=sampling,
        seed=options.seed,
        stop_token=model.tokenizer and model.tokenizer.end_of_text_id,
        stop=options.stop,
        ahead=options.ahead,
    )
    try:
        print(options.prompt, end="", flush=True)
        for piece in pieces:
            print(piece.text, end="", flush=True)
    finally:
        print()
    return 0


def parser() -> argparse.ArgumentParser:
    """Build the command-line parser."""
    made = argparse.ArgumentParser(prog="python -m mini_moe.inference", description=main.__doc__)
    made.add_argument("--prompt", type=text_argument, required=True, help="the text to continue")
    made.add_argument(
        "--checkpoint",
        type=Path,
        default=data_folder() / "checkpoints" / "tiny",
        help="folder with config.json, *.safetensors and tokenizer.json; default: %(default)s",
    )
    defaults = Sampling()
    made.add_argument(
        "--device", default="auto", help="cpu, cuda, mps; default: the best available"
    )
    made.add_argument("--max_new_tokens", type=int, default=200, help="default: %(default)s")
    made.add_argument(
        "--temperature",
        type=float,
        default=defaults.temperature,
        help="0 always takes the likeliest token",
    )
    made.add_argument("--top_k", type=int, help="only the k likeliest tokens")
    made.add_argument("--top_p", type=float, default=defaults.top_p, help="default: %(default)s")
    made.add_argument("--min_p", type=float, default=defaults.min_p, help="default: %(default)s")
    made.add_argument(
        "--repetition_penalty", type=float, default=defaults.repetition_penalty, help="1 is off"
    )
    made.add_argument("--seed", type=int, help="the same seed gives the same text")
    made.add_argument(
        "--stop", type=text_argument, action="append", help="text to stop before; may be repeated"
    )
    made.add_argument(
        "--ahead", type=int, default=0, help="tokens that the model's MTP module proposes per pass"
    )
    return made


if __name__ == "__main__":
    sys.exit(main())
