"""What whoever watches a run sees and can do: a progress bar, and Ctrl-C."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm.auto import tqdm


@contextmanager
def progress_bar(total: int, done: int, shown: bool) -> Iterator[Callable[[dict], None]]:
    """A function that moves a bar on by one record of the log."""
    with tqdm(total=total, initial=done, disable=not shown, leave=False) as bar:

        def show(record: dict) -> None:
            bar.update()
            rate = f"{record['tokens_per_second']:.0f}"
            bar.set_postfix(loss=f"{record['loss']:.3f}", tokens_per_s=rate)

        yield show


@contextmanager
def interrupt_flag() -> Iterator[Callable[[], bool]]:
    """Inside, the first Ctrl-C sets a flag and the second interrupts; only in the main thread."""
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
