"""g++ compiles CUDA sources together with the checker of kernels/checker/, for the CPU.

The checker's own parts are compiled once and kept in build/checker/; a kernel then takes a few
tenths of a second.
"""

import hashlib
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

from mini_moe.checker.commands import run
from mini_moe.checker.library import Checked
from mini_moe.checker.reports import NoCompiler

KERNELS = Path(__file__).parents[2] / "kernels"
OBJECTS = KERNELS.parent / "build" / "checker"
OLDEST = 11  # the oldest major version of g++ with the right instrumentation
CHECKER = ("fibers", "waiting", "regions", "memory", "instruments", "recorder", "stops")
COMMON = ["-std=c++17", "-fPIC", "-g", f"-I{KERNELS}", "-U_FORTIFY_SOURCE"]
STRICT = ["-Wall", "-Wextra"]
# -fno-thread-jumps: one load in the source stays one load; nvcc predicates where g++ would copy.
INSTRUMENTED = [
    "-x", "c++", "-O1", "-fno-thread-jumps", "-fno-gnu-unique", "-fno-exceptions",
    "-Wno-attributes", "-Wno-unknown-pragmas",
    "-fsanitize=thread,bounds,signed-integer-overflow,integer-divide-by-zero,shift",
    "-fstack-protector-strong", "-fstack-clash-protection",
    "--param", "tsan-instrument-func-entry-exit=0",
]  # fmt: skip


@cache
def why_not() -> str:
    """Return why kernels cannot be checked on this machine, in one sentence; "" if they can."""
    needed = f"checking kernels needs Linux with g++ {OLDEST} or newer and binutils"
    if platform.system() != "Linux":
        return f"{needed}; this is {platform.system()} (a Linux container or WSL will do)"
    if missing := [name for name in ("g++", "objdump", "addr2line") if not shutil.which(name)]:
        return f"{needed}; there is no {' and no '.join(missing)} here"
    if not (KERNELS / "checker").is_dir():
        return "checking kernels needs the repository's folder kernels/, which is not here"
    version = run("g++", "--version").partition("\n")[0]
    found = re.search(r"(\d+)\.\d+", run("g++", "-dumpfullversion"))
    if "clang" in version or not found or int(found[1]) < OLDEST:
        return f"{needed}; g++ is {version} here"
    return ""


def require_compiler() -> None:
    """Raise NoCompiler, with the reason, if kernels cannot be compiled."""
    if why_not():
        raise NoCompiler(why_not())


def build(sources: Iterable[Path], folder: Path, name: str = "checked") -> Checked:
    """Compile the sources and the checker into one library, and load it; the name must be new.

    Raises: NoCompiler; RuntimeError with the compiler's output; warnings count as errors.
    """
    require_compiler()
    sources = [Path(source) for source in sources]
    objects = [folder / f"{name}-{source.stem}.o" for source in sources]

    def compile_one(source: Path, target: Path) -> None:
        run("g++", *COMMON, *STRICT, *INSTRUMENTED, "-c", str(source), "-o", str(target))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(compile_one, sources, objects))
    return link(objects, folder / f"lib{name}.so")


def link(objects: list[Path], library: Path) -> Checked:
    """Link compiled kernels and the checker into one library, and load it."""
    parts = [*map(str, objects), *map(str, checker_objects())]
    run("g++", "-shared", "-Wl,-Bsymbolic,--no-undefined", "-o", str(library), *parts)
    return Checked(library)


@cache
def checker_objects() -> list[Path]:
    """Compile the checker's own parts; kept until they, the flags or g++ change."""
    sources = [KERNELS / "checker" / f"{part}.cpp" for part in CHECKER]
    files = [*sources, *(KERNELS / "checker").glob("*.h")]
    known = [run("g++", "--version"), *COMMON, *(path.read_text("utf-8") for path in sorted(files))]
    folder = OBJECTS / hashlib.sha256("\0".join(known).encode()).hexdigest()[:16]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:  # a read-only checkout
        folder = Path(tempfile.mkdtemp(prefix="checker-"))

    def compile_one(source: Path) -> Path:
        target = folder / f"{source.stem}.o"
        if not target.exists():  # another process may do the same: replace when complete
            unfinished = target.with_suffix(f".{os.getpid()}")
            run("g++", *COMMON, *STRICT, "-O2", "-c", str(source), "-o", str(unfinished))
            unfinished.replace(target)
        return target

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(compile_one, sources))
