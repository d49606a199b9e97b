"""The folder that a run writes to: one writer at a time, and a log."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

LOG = "log.jsonl"
LOCK = ".lock"


@contextmanager
def only_writer(folder: Path | None) -> Iterator[None]:
    """Lock the folder, so that no other process or thread writes to it.

    The folder is created if needed; None locks nothing. One thread may enter twice (a command that
    trains and saves in the same folder). The operating system releases the lock when its holder
    ends, however it ends.
    Raises: ValueError if another run is already writing there; nothing is changed.
    """
    if folder is None:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.resolve() / LOCK, is_singleton=True)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise ValueError(
            f"folder={str(folder)!r}: another run is writing there; stop it, wait until it ends, "
            "or use another folder"
        ) from None
    try:
        yield
    finally:
        if lock.lock_counter == 1:
            with suppress(OSError):  # Windows can't delete open files, only on release
                Path(lock.lock_file).unlink()
        lock.release()


@contextmanager
def open_log(folder: Path | None) -> Iterator[Callable[[dict], None]]:
    """Give a function that appends a record to log.jsonl; it does nothing without a folder."""
    if folder is None:
        yield lambda record: None
        return
    with (folder / LOG).open("a", encoding="utf-8", buffering=1) as file:
        yield lambda record: file.write(json.dumps(record) + "\n")
