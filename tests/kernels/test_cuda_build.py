"""One library for CPU and CUDA: its dependencies, where it loads, and builds without nvcc."""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mini_moe.ops import compiled, describe
from mini_moe.ops.seal import seal
from tests.kernels.cpu import needs_library

CUDA = compiled.SOURCES / "cuda"
HEADERS = Path(torch.__file__).parent / "include"
needs_cuda_part = pytest.mark.skipif(
    bool(compiled.CUDA_WHY_NOT), reason=f"no CUDA kernels: {compiled.CUDA_WHY_NOT}"
)
needs_compiler = pytest.mark.skipif(not shutil.which("g++"), reason="needs g++")


@pytest.fixture
def build(monkeypatch, tmp_path):
    """Load kernels/build.py as a module that writes into the test's own folder."""
    spec = importlib.util.spec_from_file_location("kernels_build", compiled.SOURCES / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "OBJECTS", tmp_path)
    monkeypatch.setattr(module, "LIBRARY", tmp_path / "_C.abi3.so")
    return module


@pytest.fixture
def library(build):
    """Return a function that writes a fake library with these marks, for build.py to read."""

    def write(stamp: str, cuda: str):
        marks = [compiled.MARK + stamp.encode(), compiled.CUDA_MARK + cuda.encode()]
        body = b"\0".join([b"ELF", *marks, b""])
        build.LIBRARY.write_bytes(body + seal(body))

    return write


def program(folder: Path, name: str, text: str, code: int = 0) -> str:
    """Write a shell script that prints `text` to stderr."""
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{text}' >&2\nexit {code}\n")
    path.chmod(0o755)
    return str(path)


def dynamic_symbols(*options: str) -> list[str]:
    """Return the symbols that the library needs or defines, as nm prints them."""
    if not shutil.which("nm"):
        pytest.skip("no nm here")
    command = ["nm", "-D", *options, str(compiled.LIBRARY)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


# ---------------------------------------------------------------- what the library needs


@needs_library
@needs_compiler
def test_every_function_asked_of_torch_was_there_in_2_11(tmp_path):
    """Torch's header, read as version 2.11, hides later additions."""
    (tmp_path / "ask.cpp").write_text("#include <torch/csrc/stable/c/shim.h>\n")
    command = ["g++", "-std=c++20", "-E", "-I", str(HEADERS), str(tmp_path / "ask.cpp")]
    command += ["-DTORCH_TARGET_VERSION=0x020b000000000000ULL"]
    header = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    known = set(re.findall(r"\b(?:aoti_)?torch_\w+", header))
    assert "torch_from_blob" in known and "torch_exception_get_what" not in known
    names = [line.split()[-1] for line in dynamic_symbols("--undefined-only")]
    asked = {name for name in names if re.match(r"(aoti_)?torch_", name)}
    assert "torch_call_dispatcher" in asked
    assert asked - known == set()


@needs_library
def test_library_asks_for_an_old_c_library():
    """A library built here needs a C library no newer than 2021's, so it runs elsewhere."""
    versions = re.findall(r"@GLIBC_([\d.]+)", "\n".join(dynamic_symbols("--undefined-only")))
    assert max(tuple(map(int, version.split("."))) for version in versions) <= (2, 34)


@needs_cuda_part
def test_cuda_runtime_stays_inside():
    """Torch has its own runtime: neither may resolve the other's symbols."""
    names = {line.split()[-1] for line in dynamic_symbols()}
    runtime = {name for name in names if re.match(r"_*(cuda|cu[A-Z])", name)}
    assert runtime == set()
    assert not any("libcuda" in line or "libtorch_cuda" in line for line in needed())


def needed() -> list[str]:
    """Return the shared libraries that this one needs to load."""
    if not shutil.which("objdump"):
        pytest.skip("no objdump here")
    command = ["objdump", "-p", str(compiled.LIBRARY)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return [line.split()[1] for line in lines if "NEEDED" in line]


@needs_cuda_part
def test_library_with_cuda_kernels_serves_a_torch_without_cuda():
    assert {"sm_80", "sm_90a"} <= set(compiled.cuda_kernels().split(", "))
    ids = torch.tensor([[2, 0], [2, 1]])
    assert torch.ops.mini_moe.sort_rows(ids, 3)[3].tolist() == [0, 1, 2, 4]
    if not torch.cuda.is_available():
        assert "compiled kernels (sm_80, sm_90a)" in describe()


# ---------------------------------------------------------------- torch's stream

FAKE_TORCH = """
extern "C" int aoti_torch_get_current_cuda_stream(int device, void** stream) {
  *stream = (void*)(long)(1000 + device);
  return device > 7;
}
"""
ASKER = f"""
#include "{CUDA / "stream.cpp"}"
extern "C" long asked(int device) {{
  try {{ return (long)mini_moe::cuda::current_stream(device); }}
  catch (const std::exception&) {{ return -1; }}
}}
extern "C" __attribute__((weak)) int aoti_torch_get_current_cuda_stream(int, void**);
extern "C" long weak_symbol() {{ return (long)&aoti_torch_get_current_cuda_stream; }}
"""
ASK = """
import ctypes, sys
if sys.argv[2] == "with": ctypes.CDLL(sys.argv[1] + "/libtorch_cuda.so")
asker = ctypes.CDLL(sys.argv[1] + "/asker.so")
print(asker.asked(0), asker.asked(3), asker.asked(9), asker.weak_symbol())
"""


@needs_compiler
@pytest.mark.parametrize(("torch_cuda", "said"), [("with", "1000 1003 -1 0"), ("no", "-1 -1 -1 0")])
def test_stream_is_found_where_torch_keeps_its_libraries_to_itself(tmp_path, torch_cuda, said):
    """Python loads libraries privately: a weak symbol is null even if its owner is loaded."""
    for name, text, extra in [
        ("libtorch_cuda", FAKE_TORCH, ["-Wl,-soname,libtorch_cuda.so"]),
        ("asker", ASKER, ["-std=c++20"]),
    ]:
        (tmp_path / f"{name}.cpp").write_text(text)
        command = ["g++", "-shared", "-fPIC", *extra, str(tmp_path / f"{name}.cpp")]
        subprocess.run([*command, "-o", str(tmp_path / f"{name}.so")], check=True)
    command = [sys.executable, "-c", ASK, str(tmp_path), torch_cuda]
    assert subprocess.run(command, capture_output=True, text=True).stdout.strip() == said


# ---------------------------------------------------------------- building


def test_without_nvcc_the_cuda_part_is_left_out(build):
    with pytest.raises(FileNotFoundError) as error:
        build.translate_cuda(None, "g++", False)
    assert build.complaint(error.value) == "none: no nvcc here"


def test_nvcc_that_refuses_the_compiler_is_quoted_and_the_cpu_still_built(
    build, monkeypatch, tmp_path
):
    refusal = 'host_config.h:1: error: #error -- unsupported GNU version! "later than 15"'
    nvcc = program(tmp_path, "nvcc", refusal, 1)
    linked = []
    monkeypatch.setattr(build, "translate", lambda jobs, force: [job.source for job in jobs])
    monkeypatch.setattr(build, "link", lambda linker, objects: linked.append(linker))
    said = build.build("g++", nvcc, ["portable"], ("stamp", "tools"), False)
    assert said.startswith("none: nvcc says: ") and "unsupported GNU version! 'later" in said
    assert [linker[0] for linker in linked] == ["g++"]


def test_cuda_that_cannot_be_linked_is_left_out(build, monkeypatch, tmp_path):
    def link(linker, objects):
        if "nvcc" in linker[0]:
            error = "/usr/bin/ld: cannot find -lcudart_static\ncollect2: error: ld returned 1"
            raise subprocess.CalledProcessError(1, linker, stderr=error)

    nvcc = program(tmp_path, "nvcc", "fine")
    monkeypatch.setattr(build, "translate", lambda jobs, force: [])
    monkeypatch.setattr(build, "link", link)
    said = build.build("g++", nvcc, ["portable"], ("stamp", "tools"), False)
    assert said.startswith("none: nvcc says: ")


SPILLING = """
ptxas info    : Compiling entry function '_Z4fineiPf' for 'sm_80'
ptxas info    : Function properties for _Z4fineiPf
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Compiling entry function '_Z6greedyPf' for 'sm_90a'
ptxas info    : Function properties for _Z6greedyPf
    48 bytes stack frame, 44 bytes spill stores, 40 bytes spill loads
"""


def test_kernel_that_spills_registers_is_named(build):
    with pytest.raises(build.Spilled, match=r"g.cu: .*greedy.* spills 44 bytes for sm_90a"):
        build.refuse_spills(Path("g.cu"), SPILLING)
    build.refuse_spills(Path("g.cu"), SPILLING.replace("44", "0").replace("40", "0"))


def test_kernel_that_spills_registers_fails_the_build(build, monkeypatch, capsys):
    def translate(*_):
        raise build.Spilled("g.cu: greedy spills 44 bytes for sm_90a")

    monkeypatch.setattr(build, "translate", translate)
    monkeypatch.setattr(build, "run", lambda command: "")
    monkeypatch.setattr(build, "find_nvcc", lambda: shutil.which("true"))
    monkeypatch.setattr(build.sys, "argv", ["build.py"])
    if not build.find_compiler():
        pytest.skip("needs a C++ compiler")
    assert build.main() == 1
    assert "not built: g.cu: greedy spills 44 bytes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("in_library", "tools_here", "current"),
    [
        ("abc: sm_80, sm_90a", "", True),  # built elsewhere with nvcc, used here without
        ("abc: sm_80, sm_90a", "def", True),
        (": none: no nvcc here", "", True),
        (": none: no nvcc here", "def", False),  # nvcc was installed later
        ("abc: none: nvcc says: error", "def", False),  # and a different nvcc
        ("def: none: nvcc says: error", "def", True),  # no point in trying again
    ],
)
def test_machine_that_gains_nvcc_builds_again(build, library, in_library, tools_here, current):
    library("stamp", in_library)
    assert build.is_current("stamp", tools_here) == current
    assert not build.is_current("other sources", tools_here)
    assert build.cuda_in_library() == in_library.partition(": ")[2]


def test_fingerprint_covers_the_cuda_sources():
    names = {path.name for path in compiled.sources()}
    assert {"combine.cu", "device.cuh", "launchers.h", "stream.cpp", "isa.cpp"} <= names
