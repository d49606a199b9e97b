"""Finding, building and refusing the library."""

import shutil
import subprocess

import pytest
import torch

from mini_moe.ops import compiled, describe, use
from mini_moe.ops.seal import LENGTH, seal
from tests.kernels.builds.common import load_build
from tests.kernels.cpu import needs_library


@pytest.fixture
def build():
    """Load kernels/build.py as a module."""
    return load_build()


def write_sealed(path, body):
    path.write_bytes(body + seal(body))


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
    write_sealed(old, compiled.MARK + b"0123456789abcdef01234567")
    monkeypatch.setattr(compiled, "LIBRARY", old)
    assert "older than its sources" in compiled.load()


def test_library_that_cannot_be_loaded_is_explained(tmp_path, monkeypatch):
    monkeypatch.delenv("MINI_MOE_KERNELS", raising=False)
    broken = tmp_path / "_C.abi3.so"
    write_sealed(broken, compiled.MARK + compiled.fingerprint().encode() + b" and nothing else")
    monkeypatch.setattr(compiled, "LIBRARY", broken)
    assert "cannot be loaded" in compiled.load()


def damaged_copies(whole: bytes) -> dict[str, bytes]:
    """Yield the states that a failed copy may leave a library in."""
    shares = [0, 0.001, 0.01, 0.1, 0.25, 0.5, 0.85, 0.95, 0.99, 0.999]
    copies = {f"cut at {share}": whole[: int(len(whole) * share)] for share in shares}
    copies |= {f"without the last {n}": whole[:-n] for n in (1, 51, 52, 53, 4096)}
    half, body, sealed = len(whole) // 2, whole[:-LENGTH], whole[-LENGTH:]
    copies["a block of zeros"] = whole[:half] + bytes(4096) + whole[half + 4096 :]
    copies["zeros to the end"] = whole[:half] + bytes(len(whole) - half)
    copies["another size"] = body + sealed.replace(b"%012d" % len(body), b"%012d" % (len(body) + 1))
    copies["cut, but for its seal"] = body[:half] + sealed
    copies["more after it"] = whole + b"\n"
    return copies


@needs_library
@pytest.mark.parametrize("with_sources", [True, False])
def test_damaged_library_is_never_loaded(tmp_path, monkeypatch, with_sources):
    monkeypatch.delenv("MINI_MOE_KERNELS", raising=False)
    monkeypatch.setattr(torch.ops, "load_library", lambda path: pytest.fail(f"loaded {path}"))
    if not with_sources:  # as in a wheel
        monkeypatch.setattr(compiled, "SOURCES", tmp_path / "kernels")
    copies = damaged_copies(compiled.LIBRARY.read_bytes())
    monkeypatch.setattr(compiled, "LIBRARY", tmp_path / "_C.abi3.so")
    for name, data in copies.items():
        compiled.LIBRARY.write_bytes(data)
        assert "damaged or truncated" in compiled.load(), name


@needs_library
def test_damaged_library_is_built_again(build, tmp_path, monkeypatch):
    copy = tmp_path / "_C.abi3.so"
    copy.write_bytes(compiled.LIBRARY.read_bytes())
    monkeypatch.setattr(build, "LIBRARY", copy)
    assert build.is_current(compiled.fingerprint(), "")
    copy.write_bytes(copy.read_bytes()[:-1])
    assert not build.is_current(compiled.fingerprint(), "")


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
