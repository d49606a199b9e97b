"""Tell the browser when each of its messages is handled, even while a cell awaits."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def messages_answered() -> Iterator[None]:
    """Answer every widget message with "idle" inside this context, as if no cell were running.

    A browser sends a slider's next value only after the previous one was answered, and ipykernel
    7.4 answers nothing while a cell awaits: a slider would work once and then never again. Extra
    answers are ignored. Outside a kernel this does nothing.
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
    """Return the Jupyter kernel that this program runs in, or None."""
    try:
        from IPython import get_ipython
    except ImportError:
        return None
    return getattr(get_ipython(), "kernel", None)
