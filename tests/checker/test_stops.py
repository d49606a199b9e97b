"""Kernels that would end the process, or never end: each becomes a report or an error."""

import signal
import subprocess
import sys
import threading

import pytest
import torch

from mini_moe.checker import CheckerError, CompileError, output, run_cuda


def kernel(body: str) -> str:
    return f"__global__ void k(float* y, int n) {{\n  {body}\n}}"


def run(body: str, **launch):
    arguments = {"grid": 1, "block": 32, "y": output(64), "n": 6} | launch
    return run_cuda(kernel(body), **arguments)


def reported(body: str, **launch):
    with pytest.raises(CheckerError) as error:
        run(body, **launch)
    (report,) = error.value.reports
    assert report.place == "k.cu:2"
    return report


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        ("unsigned a[4] = {}, b[2] = {}; float c[4] = {}; if (threadIdx.x == 3) return; "
         "multiply_add(c, a, b); y[0] = c[0];", "divergence", "for lane 3, but thread"),
        ("y[threadIdx.x] = n / int(threadIdx.x);", "division by zero", "divides 6 by 0"),
        ("y[threadIdx.x] = (n - 7) % (n - 6);", "division by zero", "divides -1 by 0"),
        ("((void (*)())nullptr)();", "out of bounds", "a null pointer"),
        ("*(volatile int*)(~0ull - 3) = n;", "out of bounds", "nowhere near a buffer"),
        ("memset(y, 0, size_t(1) << 40);", "out of bounds", "touches an address"),
        ("y[0] = *new float[size_t(1) << 50];", "stopped", "aborts"),
        ("if (n) __builtin_trap();", "stopped", "ends the program"),
        ("assert(n > 6);", "assertion", "finds that not n > 6"),
        ("exit(3);", "stopped", "calls exit"),
        ("again: goto again;", "endless", "does nothing and never ends"),
        ("do {} while (1);", "endless", "does nothing and never ends"),
    ],
)  # fmt: skip
def test_a_kernel_that_would_end_the_process_is_reported(body, kind, words):
    report = reported(body)
    assert report.kind == kind and words in report.text
    assert run("y[threadIdx.x] = 1;")["y"][:32].eq(1).all()  # and the next one runs


def test_a_grid_that_is_too_large_for_the_checker_is_named():
    assert "the grid is too large" in reported("if (n < 0) y[0] = 1;", grid=2**31 - 1).text


@pytest.mark.parametrize(
    ("name", "size"),
    [("grid", 0), ("grid", -1), ("grid", 2**32 + 1), ("grid", 1.5), ("grid", (1, 1, 1, 1)),
     ("block", ()), ("block", True), ("block", "32"), ("block", (8, None))],
)  # fmt: skip
@pytest.mark.any_types
def test_sizes_that_no_launch_has_are_named(name, size):
    with pytest.raises(ValueError, match=f"{name}: expected one to three numbers"):
        run("y[threadIdx.x] = 1;", **{name: size})


@pytest.mark.parametrize("n", [2**31, -(2**31) - 1, 2**70])
def test_numbers_that_do_not_fit_are_named(n):
    with pytest.raises(ValueError, match=f"n: {n} does not fit int"):
        run("y[threadIdx.x] = n;", n=n)


def test_what_the_linker_misses_is_named():
    with pytest.raises(CompileError, match=r"line 3: undefined reference to `other"):
        run_cuda(
            "int other(int);\n" + kernel("y[0] = other(n);"), grid=1, block=1, y=output(1), n=1
        )


def test_recursion_of_a_device_function_is_explained():
    source = "__device__ int f(int n) { return n ? f(n - 1) * 2 : 1; }\n" + kernel("y[0] = f(n);")
    with pytest.raises(CompileError, match="line 1: a __device__ function that calls itself"):
        run_cuda(source, grid=1, block=1, y=output(1), n=1)


def test_handlers_of_signals_are_put_back():
    caught = []
    before = signal.signal(signal.SIGVTALRM, lambda *_: caught.append(1))
    try:
        reported("((void (*)())nullptr)();")
        signal.raise_signal(signal.SIGVTALRM)
        assert caught == [1]
    finally:
        signal.signal(signal.SIGVTALRM, before)


def test_faults_of_the_process_itself_are_not_hidden():
    code = f"""
import faulthandler
from mini_moe.checker import output, run_cuda
run_cuda({kernel("y[threadIdx.x] = n;")!r}, grid=1, block=32, y=output(32), n=1)
faulthandler._sigsegv()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=120)
    assert done.returncode == -signal.SIGSEGV


def test_threads_take_turns():
    ran = {}

    def launch(number):
        ran[number] = run("y[threadIdx.x] = n;", n=number)["y"][:32]

    threads = [threading.Thread(target=launch, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(ran[number].equal(torch.full((32,), float(number))) for number in range(8))
