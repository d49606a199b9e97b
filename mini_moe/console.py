"""What every command line does alike: print any character, end in one line, endure closed pipes."""

import functools
import os
import sys
from collections.abc import Callable

INTERRUPTED = 130  # exit status after Ctrl-C
UNREAD = 141  # exit status when nobody reads the output any more, as of a program ended by SIGPIPE


def command_line(main: Callable[[list[str] | None], int]) -> Callable[..., int]:
    """Make a command line of a function from arguments to an exit status.

    - Characters that the terminal's encoding lacks are printed as \\xNN or \\uNNNN.
    - A ValueError, OSError or ArithmeticError (training that diverged) ends in one line and 1.
    - Ctrl-C ends quietly with 130; a pipe closed by its reader (`| head`) with 141.
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
    """Let no character raise UnicodeEncodeError in print, whatever encoding the locale asks for."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def drop_output() -> None:
    """Send what is still to be printed nowhere: Python flushes once more when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def text_argument(argument: str) -> str:
    """An argument that was UTF-8, in a locale that is not: Python hides its bytes in surrogates."""
    try:
        return os.fsencode(argument).decode("utf-8")
    except UnicodeError:
        return argument
