"""Where files are: what comes with the code, and what is made on this machine."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
INSTALLED = PACKAGE / "_data"  # a wheel has data/ here


def data_folder() -> Path:
    """What comes with the code: sources of the generated domains, tokenizer, prompts, checkpoints.

    The repository's `data/`, or the copy of it that was installed with the package.
    """
    return INSTALLED if INSTALLED.is_dir() else PACKAGE.parent / "data"


def built_folder() -> Path:
    """Where corpus, downloads and results go: `data/` in the repository, else ~/.cache/mini_moe.

    An installed package may belong to somebody else, and its next version replaces it.
    """
    return Path.home() / ".cache" / "mini_moe" if INSTALLED.is_dir() else data_folder()
