"""What all command lines share: any character prints, errors take one line, pipes may close."""

import functools
import os
import sys
from collections.abc import Callable

INTERRUPTED = 130  # exit status after Ctrl-C
UNREAD = 141  # exit status when the reader closed the pipe, as for a program killed by SIGPIPE


def command_line(main: Callable[[list[str] | None], int]) -> Callable[..., int]:
    """Turn a function from arguments to exit status into a well-behaved command line.

    - Characters that the terminal's encoding lacks are printed as \\xNN or \\uNNNN.
    - ValueError, OSError and ArithmeticError (training diverged) print one line and exit with 1.
    - Ctrl-C exits quietly with 130; a pipe closed by its reader (`| head`) exits with 141.
    """

    @functools.wraps(main)
    def run(arguments: list[str] | None = None) -> int:
        print_anything()
        try:
            status = main(arguments)
            sys.stdout.flush()
            return status
        except KeyboardInterrupt:
            return INTERRUPTED
        except BrokenPipeError:
            drop_output()
            return UNREAD
        except (ValueError, OSError, ArithmeticError) as error:
            print(f"error: {error}".splitlines()[0], file=sys.stderr)
            return 1

    return run


def print_anything() -> None:
    """Keep print from raising UnicodeEncodeError, whatever the locale's encoding."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def drop_output() -> None:
    """Discard any output still buffered: Python flushes once more on exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def text_argument(argument: str) -> str:
    """Recover a UTF-8 argument in another locale, where Python hides its bytes in surrogates."""
    try:
        return os.fsencode(argument).decode("utf-8")
    except UnicodeError:
        return argument
