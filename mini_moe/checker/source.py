"""Compile a CUDA kernel given as text (a few tenths of a second), run it, and check it.

    ran = run_cuda(text, grid=2, block=64, x=torch.arange(100.0), y=output(100), n=100)
    ran["y"]                     # what the kernel wrote
    ran.traffic                  # the traffic of every line
    ran.trace                    # every address that one warp touched

Arguments go by the names of the kernel's parameters. `const` pointers are read-only; an `output`
counts as unwritten until the kernel writes it.
"""

import ctypes
import re
import tempfile
from collections.abc import Sequence
from functools import cache
from itertools import count
from numbers import Integral, Real
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mini_moe.checker.commands import run
from mini_moe.checker.compiling import COMMON, INSTRUMENTED, link, require_compiler, why_not
from mini_moe.checker.library import ONE_AT_A_TIME, Checked
from mini_moe.checker.recordings import Run, key_of, recall, remember
from mini_moe.checker.reports import CheckerError, CompileError

# No -Wall: an unused variable in a student's code is fine, an uninitialized one is not.
LENIENT = ["-Werror=uninitialized", "-fmax-errors=2", "-fno-semantic-interposition"]
# For endless.cpp: every step of a loop is counted; -Og leaves no loop without a step.
LENIENT += ["-fsanitize-coverage=trace-pc", "-Og"]
MOST_SHARED = 48 << 10  # bytes of a kernel's __shared__ arrays of a known size
MOST_STEPS = 500_000  # loops and branches of all threads; recording them takes memory
TYPES = {torch.float32: "float", torch.float64: "double", torch.bfloat16: "bf16"}
TYPES |= {torch.int32: "int", torch.int64: "int64_t"}
WHOLE_NUMBERS = {"int": (-(2**31), 2**31), "unsigned": (0, 2**32), "int64_t": (-(2**63), 2**63)}
ERROR = re.compile(
    r"^\S+\.cu:(\d+):(\d+): (?:(?:fatal )?error|warning): (.*?)(?: \[-W.*\])?$", re.M
)
UNDEFINED = re.compile(r"\.cu:(\d+): (undefined reference to .*)")  # the linker's message
COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.S)
# `extern __shared__ float buffer[];` names the memory that fibers.cpp keeps for it.
DYNAMIC = re.compile(r"\bextern\s+__shared__\b([^;{}]*\[\s*\][^;{}]*);")
_numbers = count()


class Output(NamedTuple):
    """Memory for a kernel to fill; initially unwritten."""

    shape: tuple[int, ...]
    dtype: torch.dtype


def output(*shape: int, dtype: torch.dtype = torch.float32) -> Output:
    """Request memory for a kernel to fill."""
    return Output(shape, dtype)


def run_cuda(
    source: str, *, grid: int | Sequence[int], block: int | Sequence[int], kernel: str = "",
    shared: int = 0, watch: tuple[int, int] = (0, 0), **arguments: Any,
) -> Run:  # fmt: skip
    """Compile a kernel, launch it once, and return what it wrote and moved.

    `shared`: bytes of dynamic shared memory; `watch`: the (block, warp) whose addresses are traced;
    `kernel`: its name, if the source has several.
    Raises: NoCompiler, CompileError, CheckerError, ValueError for arguments that do not fit.
    """
    source = source.strip("\n")
    name, parameters = signature(source, kernel)
    _check_names(name, parameters, arguments)
    sizes = (*_three("grid", grid), *_three("block", block), _bytes(shared))
    key = key_of(source, (name, sizes, tuple(watch)), arguments)
    if why_not():
        return recall(key)
    try:
        ran = _launch(compile_cuda(source), name, parameters, sizes, watch, arguments)
    except CheckerError as error:
        remember(key, error)
        raise
    remember(key, ran)
    return ran


def _launch(
    library: Checked, name: str, parameters: list[str], sizes: tuple[int, ...],
    watch: tuple[int, int], arguments: dict[str, Any],
) -> Run:  # fmt: skip
    with ONE_AT_A_TIME:
        types = called(library.library, f"types_{name}").split("|")[:-1]
        packed = (ctypes.c_int64 * max(1, len(types)))()
        outputs: dict[str, Tensor] = {}
        try:
            for i, (parameter, kind) in enumerate(zip(parameters, types, strict=True)):
                _pack(library, packed, i, parameter, kind, arguments[parameter], outputs)
            library.library.checker_limit(ctypes.c_uint64(MOST_STEPS))
            launch = f"call_{name}", (ctypes.c_int64 * 7)(*sizes), packed
            traffic = library.recorded(*launch, block=watch[0], warp=watch[1])
            return Run(name, {k: v.clone() for k, v in outputs.items()}, traffic, library.trace())
        finally:
            outputs.clear()
            library.release()


def signature(source: str, kernel: str = "") -> tuple[str, list[str]]:
    """Return the kernel's name and the names of its parameters.

    Raises: CompileError if there is no such kernel, or more than one to choose from.
    """
    found = _kernels(source)
    if not found:
        raise CompileError("there is no `__global__ void name(…)` in your text")
    if kernel and kernel not in found:
        raise CompileError(f"there is no kernel {kernel}; there is {', '.join(found)}")
    if not kernel and len(found) > 1:
        raise CompileError(f"which kernel? kernel= expects one of {', '.join(found)}")
    name = kernel or next(iter(found))
    return name, found[name]


def _kernels(source: str) -> dict[str, list[str]]:
    heads = re.findall(
        r"__global__\s+void\s+(?:__launch_bounds__\s*\([^)]*\)\s*)?(\w+)\s*\(([^)]*)\)",
        without_comments(source),
    )
    return {
        name: [re.findall(r"\w+", part)[-1] for part in parameters.split(",") if part.strip()]
        for name, parameters in heads
    }


@cache
def compile_cuda(source: str) -> Checked:
    """Compile the text and the checker into one library; the same text is compiled once.

    Raises: NoCompiler; CompileError with g++'s messages, lines counted as in the text.
    """
    require_compiler()
    names = list(_kernels(source))
    launchers = ['#include "checker/call.h"', *(f"CALLABLE({name})" for name in names), ""]
    text = "\n".join(
        ['#include "tensor_core.cuh"', "#line 1", with_dynamic_arrays(source), *launchers]
    )
    path = folder() / str(next(_numbers)) / f"{names[0] if names else 'kernel'}.cu"
    path.parent.mkdir()
    path.write_text(text, "utf-8")
    target = path.with_suffix(".o")
    try:
        run("g++", *COMMON, *INSTRUMENTED, *LENIENT, "-c", str(path), "-o", str(target))
        library = link([target], path.with_suffix(".so"))
    except RuntimeError as error:
        raise CompileError(compiler_words(str(error), source)) from None
    refuse_large_arrays(library)
    return library


def refuse_large_arrays(library: Checked) -> None:
    """Raise CompileError if a function's __shared__ arrays are larger than nvcc allows."""
    for function, n_bytes in library.shared_bytes.items():
        if n_bytes > MOST_SHARED:
            raise CompileError(
                f"the __shared__ arrays of {function} take {n_bytes:,} bytes; at most "
                f"{MOST_SHARED:,} are allowed (more only as `extern __shared__`)"
            )


def without_comments(source: str) -> str:
    """Replace comments by blanks, so that every character keeps its position."""
    return COMMENT.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), source)


def with_dynamic_arrays(source: str) -> str:
    """Rewrite every `extern __shared__` array so that g++ finds it; lines stay the same."""
    named = r'extern __attribute__((aligned(128)))\1 __asm__("checker_dynamic_shared");'
    bare = without_comments(source)
    pieces, end = [], 0
    for found in DYNAMIC.finditer(bare):
        pieces += [source[end : found.start()], found.expand(named)]
        end = found.end()
    return "".join([*pieces, source[end:]])


@cache
def folder() -> Path:
    """Return the folder with what this process compiled; it is removed at exit."""
    temporary = tempfile.TemporaryDirectory(prefix="cuda-on-cpu-", ignore_cleanup_errors=True)
    folder.kept = temporary
    return Path(temporary.name)


def compiler_words(text: str, source: str) -> str:
    """Format g++'s errors: "line 3: expected ';'", that source line, and a mark under it."""
    lines, shown = source.splitlines(), []
    for number, column, words in ERROR.findall(text):
        if "inlining failed in call to 'always_inline'" in words:
            words = "a __device__ function that calls itself; write it as a loop"
        shown.append(f"line {number}: {words}")
        if int(number) <= len(lines):
            shown += [f"    {lines[int(number) - 1]}", " " * (int(column) + 3) + "^"]
    for number, words in UNDEFINED.findall(text):
        shown += [f"line {number}: {words}", f"    {lines[int(number) - 1]}"]
    if not shown:  # an error in a header
        shown = [line for line in text.splitlines() if "error" in line][:3] or text.splitlines()[
            -3:
        ]
    return "\n".join(shown)


def called(library: ctypes.CDLL, name: str) -> str:
    """Return the string that a C function without arguments returns."""
    function = getattr(library, name)
    function.restype = ctypes.c_char_p
    return function().decode()


def _check_names(kernel: str, parameters: list[str], arguments: dict[str, Any]) -> None:
    if set(parameters) != set(arguments):
        raise ValueError(
            f"{kernel}: the parameters are {', '.join(parameters) or 'none'}; "
            f"got {', '.join(arguments) or 'none'}"
        )


def _three(name: str, size: int | Sequence[int]) -> tuple[int, int, int]:
    numbers = tuple(size) if isinstance(size, Sequence) else (size,)
    if not 1 <= len(numbers) <= 3 or not all(_is_whole(n) and 0 < n < 2**31 for n in numbers):
        raise ValueError(f"{name}: expected one to three numbers from 1 to 2^31 - 1, got {size!r}")
    return (*map(int, numbers), 1, 1)[:3]


def _bytes(shared: int) -> int:
    if not _is_whole(shared) or not 0 <= shared < 2**31:
        raise ValueError(f"shared: expected a number of bytes, got {shared!r}")
    return int(shared)


def _is_whole(number: Any) -> bool:
    return isinstance(number, Integral) and not isinstance(number, bool)


def _pack(
    library: Checked, packed: ctypes.Array, i: int, name: str, kind: str, value: Any,
    outputs: dict[str, Tensor],
) -> None:  # fmt: skip
    """Write one argument into its 8 bytes.

    Raises: ValueError if it does not have the parameter's type.
    """
    wanted = kind.removeprefix("const ").removesuffix("*")
    if kind.endswith("*") and value is not None:
        if not isinstance(value, Tensor | Output) or TYPES.get(value.dtype) != wanted:
            got = f"a tensor of {value.dtype}" if hasattr(value, "dtype") else repr(value)
            raise ValueError(f"{name}: expected a tensor for {kind}, got {got}")
        if isinstance(value, Output):
            buffer = outputs[name] = library.output(name, value.shape, value.dtype)
        else:
            writable = not kind.startswith("const ")
            buffer = library.input(name, value, writable=writable)
            if writable:
                outputs[name] = buffer
        packed[i] = buffer.data_ptr()
    elif kind.endswith("*"):
        packed[i] = 0
    elif isinstance(value, bool) or not isinstance(value, Integral | Real):
        raise ValueError(f"{name}: expected a number for {kind}, got {value!r}")
    elif kind in ("float", "double"):
        packed[i] = ctypes.c_int64.from_buffer_copy(ctypes.c_double(float(value))).value
    elif not isinstance(value, Integral):
        raise ValueError(f"{name}: expected a whole number for {kind}, got {value!r}")
    else:
        least, end = WHOLE_NUMBERS.get(kind, WHOLE_NUMBERS["int64_t"])
        if not least <= value < end:
            raise ValueError(f"{name}: {value} does not fit {kind}")
        packed[i] = int(value)
