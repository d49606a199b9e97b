"""Compile the CPU's kernels with clang for machines that CI does not have: ARM, and macOS.

    python -m tests.kernels.builds.cross build/zig-0.17.1     # `make cross` installs it

The PyPI package ziglang contains a clang with the headers of both systems. Nothing is linked or
run, so this only shows that the sources compile without warnings.
"""

import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.kernels.builds.common import load_build

TARGETS = ("aarch64-linux-gnu", "aarch64-macos")
# Unoptimised takes half the time; zig would add checks of its own.
FLAGS = ["-Werror", "-O0", "-fno-sanitize=all"]


def main() -> int:
    """Compile every source for every target; print clang's errors and return 1 if one fails."""
    zig = Path(sys.argv[1]).resolve() / "ziglang" / "zig"
    jobs = load_build().cpu_jobs("clang", ["portable"], "0" * 24, ": none: not asked for")
    asked = [(target, job) for target in TARGETS for job in jobs]
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        errors = list(pool.map(lambda one: compile_one(zig, *one, Path(folder)), asked))
    for (target, job), error in zip(asked, errors, strict=True):
        if error:
            print(f"{job.source.name} for {target}:\n{error}")
    fine = errors.count("")
    seconds = time.perf_counter() - started
    print(f"cross: {fine} of {len(asked)} compiled in {seconds:.0f} s")
    return int(fine < len(asked))


def compile_one(zig: Path, target: str, job: Any, folder: Path) -> str:
    """Compile one source; return clang's errors if it fails, else an empty string."""
    output = folder / f"{target}-{job.source.parent.name}-{job.source.stem}.o"
    clang = [str(zig), "c++", "-target", target, *job.command[1:], *FLAGS]
    done = subprocess.run(
        [*clang, "-c", str(job.source), "-o", str(output)],
        capture_output=True, text=True,
        env=os.environ | {"ZIG_GLOBAL_CACHE_DIR": str(zig.parents[1] / "cache")},
    )  # fmt: skip
    return "" if output.exists() else done.stderr or f"exit status {done.returncode}"


if __name__ == "__main__":
    sys.exit(main())
