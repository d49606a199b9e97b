"""Run another program and capture its output."""

import os
import subprocess

ENVIRONMENT = os.environ | {"LC_ALL": "C"}  # plain quotes, English messages


def run(*command: str) -> str:
    """Return the command's output.

    Raises: RuntimeError with the program's output if it fails or warns.
    """
    done = subprocess.run(
        command, capture_output=True, encoding="utf-8", errors="backslashreplace", env=ENVIRONMENT
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    if "warning:" in done.stderr:
        raise RuntimeError(f"a warning is an error here: {done.stderr}")
    return done.stdout
