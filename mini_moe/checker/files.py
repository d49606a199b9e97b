"""Run the repository's .cu files under the checker: compiled once, called by their launcher."""

import itertools
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor

from mini_moe.checker.compiling import build, why_not
from mini_moe.checker.library import ONE_AT_A_TIME, Checked
from mini_moe.checker.recordings import Run, key_of, recall, remember
from mini_moe.checker.source import Output, folder

_numbers = itertools.count()


@cache
def compile_file(path: Path) -> Checked:
    """Compile a .cu file and the checker into one library; the same file is compiled once."""
    where = folder() / f"file-{next(_numbers)}"
    where.mkdir()
    return build([path], where, path.stem)


def run_file(path: Path, launcher: str, **arguments: Any) -> Run:
    """Call a launcher of a .cu file once, with its arguments in order of declaration.

    Tensors are read-only inputs, `output(…)` is memory to fill, numbers are int64_t or double.
    A recorded run has neither outputs nor a trace.
    Raises: NoCompiler, ValueError with the launcher's message, CheckerError.
    """
    key = key_of(path.read_text(encoding="utf-8"), (launcher,), arguments)
    if why_not():
        return recall(key)
    with ONE_AT_A_TIME:
        ran = _call(compile_file(path), launcher, arguments)
    remember(key, replace(ran, outputs={}, trace=[]))
    return ran


def _call(library: Checked, launcher: str, arguments: dict[str, Any]) -> Run:
    passed, outputs = [], {}
    try:
        for name, value in arguments.items():
            if isinstance(value, Output):
                outputs[name] = value = library.output(name, value.shape, value.dtype)
            elif isinstance(value, Tensor):
                value = library.input(name, value)
            passed.append(value)
        traffic = library.recorded(launcher, *passed)
        kept = {name: buffer.clone() for name, buffer in outputs.items()}
        return Run(launcher, kept, traffic, library.trace())
    finally:
        outputs.clear()
        passed.clear()
        library.release()
