"""While a cell awaits, every widget message is answered; afterwards the kernel is unchanged."""

import asyncio
from types import SimpleNamespace

import pytest

from mini_moe.views.live import messages as room
from mini_moe.views.live.messages import messages_answered

MESSAGE = {"header": {"msg_id": "7"}}


@pytest.fixture
def kernel(monkeypatch):
    """A kernel that records what it handles and sends."""
    made = SimpleNamespace(handled=[], sent=[], iopub_socket="iopub")
    made.handler = lambda stream, ident, message: made.handled.append(message)
    made.shell_handlers = {"comm_msg": made.handler}
    send = lambda socket, kind, content, parent: made.sent.append((socket, kind, content, parent))  # noqa: E731
    made.session = SimpleNamespace(send=send)
    monkeypatch.setattr(room, "running_kernel", lambda: made)
    return made


def deliver(kernel):
    asyncio.run(kernel.shell_handlers["comm_msg"]("stream", "ident", MESSAGE))


def test_a_message_is_handled_and_then_answered(kernel):
    with messages_answered():
        deliver(kernel)
    assert kernel.handled == [MESSAGE]
    assert kernel.sent == [("iopub", "status", {"execution_state": "idle"}, MESSAGE)]


def test_a_handler_that_must_be_awaited_is(kernel):
    async def handler(stream, ident, message):
        kernel.handled.append(message)

    kernel.shell_handlers["comm_msg"] = handler
    with messages_answered():
        deliver(kernel)
    assert kernel.handled == [MESSAGE]


def test_a_failing_handler_is_answered_too(kernel):
    def fails(*given):
        raise ArithmeticError("no")

    kernel.shell_handlers["comm_msg"] = fails
    with messages_answered(), pytest.raises(ArithmeticError):
        deliver(kernel)
    assert len(kernel.sent) == 1


def test_afterwards_the_kernel_is_as_before_even_after_an_interrupt(kernel):
    with pytest.raises(KeyboardInterrupt), messages_answered():
        raise KeyboardInterrupt
    assert kernel.shell_handlers == {"comm_msg": kernel.handler}


def test_without_a_kernel_nothing_happens(monkeypatch):
    monkeypatch.setattr(room, "running_kernel", lambda: None)
    with messages_answered():
        pass
