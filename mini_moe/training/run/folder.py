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
    """Inside, nothing else writes to the folder: no other process, no other thread.

    The folder is made if need be; without one there is nothing to guard. One thread may enter twice
    (a command that trains and saves in one folder). The operating system gives the lock back when
    its holder ends, however it ends.
    Raises: ValueError where a run is writing there already; nothing was changed then.
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
            f"folder={str(folder)!r}: another run is writing there; stop it or wait for its end, "
            "or use another folder"
        ) from None
    try:
        yield
    finally:
        if lock.lock_counter == 1:
            with suppress(OSError):  # Windows keeps open files, and removes this one on release
                Path(lock.lock_file).unlink()
        lock.release()


@contextmanager
def open_log(folder: Path | None) -> Iterator[Callable[[dict], None]]:
    """A function that appends a record to the run's log.jsonl; does nothing without a folder."""
    if folder is None:
        yield lambda record: None
        return
    with (folder / LOG).open("a", encoding="utf-8", buffering=1) as file:
        yield lambda record: file.write(json.dumps(record) + "\n")
