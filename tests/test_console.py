"""Command lines print in any locale, survive a closed pipe, and explain errors in one line."""

import os
import subprocess
import sys

import pytest

from mini_moe.console import INTERRUPTED, UNREAD, command_line, text_argument

PROGRAM = """
import sys
from mini_moe.console import command_line
@command_line
def main(arguments=None):
    {body}
    return 0
sys.exit(main())
"""


def run(body, locale="C", **options):
    """Run a command line in a locale other than UTF-8; return status, output and errors."""
    environment = os.environ | {"LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    body = body.encode("ascii", "backslashreplace").decode()  # the locale garbles arguments
    command = [sys.executable, "-c", PROGRAM.format(body=body)]
    done = subprocess.run(command, env=environment | options, capture_output=True, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_any_character_is_printed_in_any_encoding(encoding):
    text = "König 王 \\ud800"
    status, out, err = run(f'print("{text}"); print("{text}", file=sys.stderr)',
                           PYTHONIOENCODING=encoding)  # fmt: skip
    expected = "König 王 \ud800\n".encode(encoding, "backslashreplace")
    assert (status, out, err) == (0, expected, expected)


def test_errors_are_one_line():
    status, out, err = run('raise ValueError("Größe: expected 1, got 2\\nand more")')
    assert (status, out) == (1, b"")
    assert err == b"error: Gr\\xf6\\xdfe: expected 1, got 2\n"


def test_mistakes_of_the_program_keep_their_traceback():
    status, _, err = run('raise TypeError("a bug")')
    assert status == 1 and b"Traceback" in err


@pytest.mark.parametrize("lines", [1, 100_000])
def test_a_closed_pipe_ends_quietly(lines):
    body = f"print(*range({lines}), sep=chr(10))"
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-c", PROGRAM.format(body=body)]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (UNREAD, b"")


def test_an_interrupt_ends_quietly():
    @command_line
    def main(arguments=None):
        raise KeyboardInterrupt

    assert main([]) == INTERRUPTED


def test_status_and_arguments_pass_through(capsys):
    @command_line
    def main(arguments=None):
        print(arguments)
        return 3

    assert main(["a"]) == 3 and capsys.readouterr().out == "['a']\n"


def test_arguments_are_read_as_utf8_in_any_locale():
    hidden = "Ünter".encode().decode("ascii", "surrogateescape")
    assert text_argument(hidden) == "Ünter"
    assert text_argument("Ünter") == "Ünter"
