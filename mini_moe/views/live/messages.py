"""While a cell awaits, the browser is told when each of its messages is done."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def messages_answered() -> Iterator[None]:
    """Inside, every message of a widget is answered with "idle", as it is when no cell runs.

    A browser sends a slider's next value only after the last one was answered, and ipykernel 7.4
    answers nothing while a cell awaits: a slider would be heard once and then no more. An answer
    too many is ignored. Without a kernel nothing changes.
    """
    kernel = running_kernel()
    if kernel is None:
        yield
        return
    before = kernel.shell_handlers["comm_msg"]

    async def answer(stream: Any, ident: Any, message: dict[str, Any]) -> None:
        try:
            result = before(stream, ident, message)
            if inspect.isawaitable(result):
                await result
        finally:
            idle = {"execution_state": "idle"}
            kernel.session.send(kernel.iopub_socket, "status", idle, parent=message)

    kernel.shell_handlers["comm_msg"] = answer
    try:
        yield
    finally:
        kernel.shell_handlers["comm_msg"] = before


def running_kernel() -> Any:
    """The Jupyter kernel that this program runs in, or None."""
    try:
        from IPython import get_ipython
    except ImportError:
        return None
    return getattr(get_ipython(), "kernel", None)
