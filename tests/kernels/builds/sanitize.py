"""Run the tests of the CPU's kernels with AddressSanitizer and UBSan.

    python -m tests.kernels.builds.sanitize     # or `make sanitize`; needs g++ and its libasan

The library is built and tested in a copy of the project, so the usual one is left alone. First,
the same setup must find two planted errors.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mini_moe.ops import compiled
from tests.kernels.builds.common import load_build

ROOT = compiled.SOURCES.parent
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
FLAGS = ["-O1", "-g1", "-fno-omit-frame-pointer", "-Werror", *SANITIZE]
PLANTED = {
    "planted_overrun": "heap-buffer-overflow",
    "planted_overflow": "signed integer overflow",
}


def main() -> int:
    """Build, find the planted errors, run the tests; return the tests' exit status."""
    build = load_build()
    build.OBJECTS = ROOT / "build" / "sanitized"
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        copy_project(copy)
        make_library(build, copy / compiled.LIBRARY.relative_to(ROOT))
        print(f"sanitize: built in {time.perf_counter() - started:.0f} s", flush=True)
        environment = sanitized_environment()
        if missed := [name for name in PLANTED if not finds(name, copy, environment)]:
            print(f"sanitize: {', '.join(missed)} not found, so these tests would prove nothing")
            return 1
        tests = [*copy.glob("tests/kernels/test_cpu_*.py"), copy / "tests" / "ops"]
        # -s: pytest would capture a sanitizer's report and lose it when the process dies.
        command = [sys.executable, "-m", "pytest", *tests, "-qxs", "-p", "no:cacheprovider"]
        return subprocess.run(command, cwd=copy, env=environment).returncode


def copy_project(to: Path) -> None:
    """Copy what the tests import, without build outputs."""
    for name in ("mini_moe", "kernels", "tests"):
        ignored = shutil.ignore_patterns("*.so", "__pycache__", "results", "failures")
        shutil.copytree(ROOT / name, to / name, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", to)
    (to / "data").symlink_to(ROOT / "data")


def make_library(build, library: Path) -> None:
    """Build the CPU's kernels and the planted errors with the sanitizers' checks."""
    known = [name for name, flags in build.INSTRUCTION_SETS.items() if build.accepts("g++", flags)]
    jobs = build.cpu_jobs("g++", known, compiled.fingerprint(), ": none: sanitized")
    planted = build.Job(Path(__file__).with_name("planted.cpp"), ["g++", "-std=c++20", "-fPIC"])
    jobs = [build.Job(source, [*command, *FLAGS]) for source, command in [*jobs, planted]]
    objects = build.translate(jobs, force=False)
    build.link(["g++", *SANITIZE, *build.LINK], objects, library)


def sanitized_environment() -> dict[str, str]:
    """Return an environment that preloads the sanitizers and stops at the first error."""
    libraries = [
        subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True)
        for name in ("libasan.so", "libubsan.so", "libstdc++.so")
    ]
    return os.environ | {
        "LD_PRELOAD": ":".join(done.stdout.strip() for done in libraries),
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
        "OMP_NUM_THREADS": "2",
    }


def finds(name: str, folder: Path, environment: dict[str, str]) -> bool:
    """Whether a planted error ends the process with the sanitizer's report."""
    code = (
        "import ctypes; from mini_moe.ops import compiled; assert not compiled.WHY_NOT\n"
        f"ctypes.CDLL(str(compiled.LIBRARY)).{name}(ctypes.c_int64(8))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True
    )
    return done.returncode != 0 and PLANTED[name] in done.stderr


if __name__ == "__main__":
    sys.exit(main())
