"""Whether kernels can be checked here, and the explanation if they cannot."""

import platform
import shutil

import pytest

from mini_moe.checker import NoCompiler, compiling, run_cuda, why_not


@pytest.fixture
def asked_again():
    """Clear the cached answer before and after."""
    compiling.why_not.cache_clear()
    yield
    compiling.why_not.cache_clear()


def test_without_a_compiler_one_sentence_says_so(asked_again, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "there is no g++ and no objdump and no addr2line here" in why_not()
    with pytest.raises(NoCompiler, match="Linux with g\\+\\+ 11"):
        run_cuda("__global__ void k() {} // new", grid=1, block=1)


def test_apples_clang_is_not_taken_for_a_compiler(asked_again, monkeypatch):
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    assert "this is Darwin" in why_not()


@pytest.mark.parametrize("version", ["Apple clang version 15.0.0", "g++ (GCC) 10.2.0"])
def test_a_compiler_that_does_not_fit_is_named(asked_again, monkeypatch, version):
    number = version.split()[-1]
    answers = {"--version": version + "\n", "-dumpfullversion": number}
    monkeypatch.setattr(compiling, "run", lambda program, question: answers[question])
    assert why_not().endswith(f"g++ is {version} here")


def test_the_checkers_parts_are_compiled_once():
    first = {path: path.stat().st_mtime_ns for path in compiling.checker_objects()}
    compiling.checker_objects.cache_clear()
    assert {p: p.stat().st_mtime_ns for p in compiling.checker_objects()} == first
