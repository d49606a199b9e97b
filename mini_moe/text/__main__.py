"""`python -m mini_moe.text`: build the corpus (or one from any text) and print its manifest."""

import argparse
import sys
from pathlib import Path

from mini_moe.console import command_line
from mini_moe.folders import INSTALLED, built_folder, data_folder
from mini_moe.text.build import build_corpus, build_text, gather, manifest_table, train_tokenizer
from mini_moe.text.corpus import Corpus, corpus_folder
from mini_moe.text.download import download


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m mini_moe.text", description=__doc__)
    add = parser.add_argument
    add("--text", type=Path, help="a UTF-8 file to use in place of the six domains")
    add("--url", help="http(s) address of a UTF-8 text to use; needs --sha256")
    add("--sha256", help="expected checksum of the download, 64 hex digits")
    add("--tokenizer", choices=("char", "bpe"), default="char", help="for --text (default: char)")
    add("--vocab-size", type=int, default=4096, help="size of a new BPE vocabulary")
    add("--seed", type=int, default=0, help="seed of the generated domains (default: 0)")
    add("--out", type=Path, help=f"folder to write (default: {corpus_folder()})")
    add("--force", action="store_true", help="rebuild even if it is up to date")
    add(
        "--train-tokenizer",
        action="store_true",
        help="first retrain the repository's tokenizer",
    )
    options = parser.parse_args(arguments)
    if options.text and options.url:
        parser.error("--text and --url can't be combined")
    if bool(options.url) != bool(options.sha256):
        parser.error("--url and --sha256 must be given together")
    if (options.text or options.url) and not options.out:
        parser.error("--text and --url need --out, so they don't overwrite the corpus")
    return options


@command_line
def main(arguments: list[str] | None = None) -> int:
    """Build what the command line asks for; report a user's mistake in one line."""
    options = parse(arguments)
    print(manifest_table(build(options)))
    print(f"in {options.out or corpus_folder()}")
    return 0


def build(options: argparse.Namespace) -> dict:
    """Build the corpus that the options describe and return its manifest."""
    if options.url:
        name = f"{options.sha256[:16].lower()}.txt"
        options.text = download(options.url, options.sha256, built_folder() / "downloads" / name)
    if options.text:
        corpus = Corpus.from_text(options.text, options.tokenizer, options.vocab_size)
        return build_text(options.out, corpus)
    if options.train_tokenizer:
        if INSTALLED.is_dir():
            raise ValueError("--train-tokenizer: needs a checkout of the repository")
        tokenizer = train_tokenizer(gather(options.seed), options.vocab_size)
        tokenizer.save(data_folder() / "tokenizer.json")
    return build_corpus(options.out, seed=options.seed, force=options.force)


if __name__ == "__main__":
    sys.exit(main())
