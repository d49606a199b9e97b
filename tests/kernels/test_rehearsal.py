"""The tests for GPUs, run with the CUDA bindings and kernels on the CPU.

g++ compiles kernels/cuda/*.cpp for CPU tensors (rehearsal.cpp), and kernels/*.cu with the checker's
threads but without its memory checks. A separate process loads that library in place of the usual
one and runs tests/gpu/ on it.
"""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from mini_moe.checker.commands import run
from mini_moe.checker.compiling import CHECKER, KERNELS, why_not

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]
TORCH = Path(torch.__file__).parent
COMMON = ["g++", "-fPIC", "-w", "-O1", f"-I{KERNELS}", "-U_FORTIFY_SOURCE"]
BINDINGS = ["-std=c++20", "-DTORCH_TARGET_VERSION=0x020b000000000000ULL", f"-I{TORCH}/include"]
LAUNCHERS = ["-std=c++17", "-x", "c++", "-fno-gnu-unique", "-fno-exceptions"]


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """Build the library that the rehearsal loads, and return its path."""
    if why_not():
        pytest.skip(why_not())
    folder = tmp_path_factory.mktemp("rehearsal")
    jobs = [(KERNELS / "cpu" / "bindings.cpp", BINDINGS), (HERE / "rehearsal.cpp", BINDINGS)]
    jobs += [(source, LAUNCHERS) for source in KERNELS.glob("*.cu")]
    jobs += [(KERNELS / "checker" / f"{part}.cpp", ["-std=c++17"]) for part in CHECKER]
    jobs.remove((KERNELS / "checker" / "memory.cpp", ["-std=c++17"]))
    jobs.append((HERE / "rehearsal_memory.cpp", ["-std=c++17"]))

    def translate(job):
        source, flags = job
        target = folder / f"{source.name}.o"
        run(*COMMON, *flags, "-c", str(source), "-o", str(target))
        return str(target)

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(translate, jobs))
    library = folder / "rehearsal.so"
    link = ["g++", "-shared", "-Wl,-Bsymbolic,--no-undefined", "-o", str(library), *objects]
    run(*link, f"-L{TORCH}/lib", "-ltorch_cpu", "-lc10")
    return library


@pytest.mark.slow
def test_tests_for_gpus_pass_without_one(library):
    settings = os.environ | {"MINI_MOE_REHEARSAL": str(library), "OMP_NUM_THREADS": "1"}
    settings["PYTEST_ADDOPTS"] = ""
    command = [sys.executable, "-m", "pytest", "-p", "tests.gpu.rehearsal", "tests/gpu", "-q"]
    done = subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True)
    assert done.stdout, done.stderr
    summary = done.stdout.splitlines()[-1]
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert int(summary.split(" passed")[0].split()[-1]) > 150, summary


def test_launchers_are_declared_as_they_are_written(tmp_path):
    """Conflicting declarations of one C function are an error, wherever they are."""
    if why_not():
        pytest.skip(why_not())
    for source in sorted(KERNELS.glob("*.cu")):
        header = ["-include", str(KERNELS / "cuda" / "launchers.h")]
        run(*COMMON, *LAUNCHERS, *header, "-fsyntax-only", str(source))
