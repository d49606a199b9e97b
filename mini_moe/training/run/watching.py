"""For someone watching a run: a progress bar, and Ctrl-C to stop it."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm.auto import tqdm


@contextmanager
def progress_bar(total: int, done: int, shown: bool) -> Iterator[Callable[[dict], None]]:
    """Give a function that advances the bar by one log record."""
    with tqdm(total=total, initial=done, disable=not shown, leave=False) as bar:

        def show(record: dict) -> None:
            bar.update()
            rate = f"{record['tokens_per_second']:.0f}"
            bar.set_postfix(loss=f"{record['loss']:.3f}", tokens_per_s=rate)

        yield show


@contextmanager
def interrupt_flag() -> Iterator[Callable[[], bool]]:
    """Make the first Ctrl-C set a flag and the second one interrupt; only in the main thread."""
    flag = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield flag.is_set
        return

    def note(*_: object) -> None:
        flag.set()
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield flag.is_set
    finally:
        signal.signal(signal.SIGINT, before)
