"""Finding, building and refusing the library."""

import importlib.util
import shutil
import subprocess

import pytest

from mini_moe.ops import compiled, describe, use
from tests.kernels.cpu import needs_library


@pytest.fixture
def build():
    """kernels/build.py as a module."""
    spec = importlib.util.spec_from_file_location("kernels_build", compiled.SOURCES / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_one_line_says_which_code_runs():
    assert describe().startswith("experts on the CPU: ")
    assert "\n" not in describe()
    with use("pytorch"):
        assert "PyTorch (" in describe()


def test_library_that_is_not_built_is_explained(tmp_path, monkeypatch):
    monkeypatch.delenv("MINI_MOE_KERNELS", raising=False)
    monkeypatch.setattr(compiled, "LIBRARY", tmp_path / "_C.abi3.so")
    assert "make kernels" in compiled.load()


def test_library_of_other_sources_is_not_loaded(tmp_path, monkeypatch):
    monkeypatch.delenv("MINI_MOE_KERNELS", raising=False)
    old = tmp_path / "_C.abi3.so"
    old.write_bytes(compiled.MARK + b"0123456789abcdef01234567")
    monkeypatch.setattr(compiled, "LIBRARY", old)
    assert "older than its sources" in compiled.load()


def test_library_that_cannot_be_loaded_is_explained(tmp_path, monkeypatch):
    monkeypatch.delenv("MINI_MOE_KERNELS", raising=False)
    broken = tmp_path / "_C.abi3.so"
    broken.write_bytes(compiled.MARK + compiled.fingerprint().encode() + b" and nothing else")
    monkeypatch.setattr(compiled, "LIBRARY", broken)
    assert "cannot be loaded" in compiled.load()


def test_environment_can_leave_the_library_alone(monkeypatch):
    monkeypatch.setenv("MINI_MOE_KERNELS", "off")
    assert compiled.load() == "MINI_MOE_KERNELS is off"


def test_without_a_compiler_nothing_is_built_and_nothing_fails(build, monkeypatch, capsys):
    monkeypatch.setattr(build.shutil, "which", lambda name: None)
    monkeypatch.setattr(build.sys, "argv", ["build.py"])
    assert build.main() == 0
    assert "no g++ or clang++" in capsys.readouterr().out


@needs_library
def test_what_is_up_to_date_is_not_built_again(build, monkeypatch, capsys):
    monkeypatch.setattr(build.sys, "argv", ["build.py"])
    monkeypatch.setattr(build, "translate", lambda *_: pytest.fail("translated again"))
    assert build.main() == 0
    assert "up to date" in capsys.readouterr().out


@needs_library
def test_library_asks_nothing_of_python():
    if not shutil.which("nm"):
        pytest.skip("no nm here")
    symbols = subprocess.run(
        ["nm", "-D", "--undefined-only", compiled.LIBRARY], capture_output=True, text=True
    ).stdout
    assert "torch_call_dispatcher" in symbols
    assert " Py" not in symbols and " _Py" not in symbols
