"""Paths of the files that ship with the code and of those built on this machine."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
INSTALLED = PACKAGE / "_data"  # a wheel has data/ here


def data_folder() -> Path:
    """Return the folder shipped with the code: domain sources, tokenizer, prompts, checkpoints.

    It is the repository's `data/`, or the copy installed with the package.
    """
    return INSTALLED if INSTALLED.is_dir() else PACKAGE.parent / "data"


def built_folder() -> Path:
    """Return where corpus, downloads and results go: the repository's `data/` or ~/.cache/mini_moe.

    The cache is for installed packages: their own folder may not be writable, and an upgrade would
    replace it.
    """
    return Path.home() / ".cache" / "mini_moe" if INSTALLED.is_dir() else data_folder()
