"""Build the compiled operations into `mini_moe/_C.abi3.so`: C++, and CUDA if nvcc is found.

`make kernels` runs this. One file works with torch 2.11 and newer, with or without CUDA, and every
Python: it uses only torch's stable interface. The CPU kernels are compiled once per instruction
set, and the best one that the processor supports is chosen at run time; CUDA kernels are compiled
once per architecture. Unchanged sources are not compiled again.
"""

import argparse
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from mini_moe.console import command_line  # noqa: E402
from mini_moe.ops.compiled import CUDA_MARK, LIBRARY, MARK, fingerprint, sources  # noqa: E402
from mini_moe.ops.seal import is_whole, seal  # noqa: E402

KERNELS = ROOT / "kernels"
OBJECTS = ROOT / "build" / "kernels"
COMMON = ["-std=c++20", "-O3", "-fPIC", "-fvisibility=hidden"]
COMMON += ["-Wall", "-Wextra", "-Wno-missing-field-initializers"]  # omitted members are zero
STABLE = ["-DTORCH_TARGET_VERSION=0x020b000000000000ULL"]  # 2.11, the oldest torch it loads in
AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mfma"]
AVX512 += ["-Wno-uninitialized"]  # GCC 12 warns about its own avx512fintrin.h
INSTRUCTION_SETS = {
    "avx512_bf16": [*AVX512, "-mavx512bf16"],
    "avx512": AVX512,
    "avx2": ["-mavx2", "-mfma"],
    "portable": [],
}
# sm_80 also as PTX, which the driver compiles for newer cards.
ARCHITECTURES = {
    "sm_80": "-gencode=arch=compute_80,code=[sm_80,compute_80]",
    "sm_90a": "-gencode=arch=compute_90a,code=sm_90a",
}
APPLE = platform.system() == "Darwin"
LINK = ["-undefined", "dynamic_lookup"] if APPLE else ["-Wl,--no-undefined"]
# The CUDA runtime is linked statically and its symbols stay hidden: torch has its own runtime.
LINK_CUDA = ["-cudart=static", "-Xlinker", "--exclude-libs=ALL,--no-undefined"]
NVCC = ["-std=c++17", "-O3", "-w", "-Xcompiler", "-fPIC,-fvisibility=hidden", "-Xptxas", "-v"]


class Job(NamedTuple):
    """A source to compile and the command that does it, without file names."""

    source: Path
    command: list[str]


class Spilled(Exception):
    """A kernel needs more registers than it may have."""


@command_line
def main(arguments: list[str] | None = None) -> int:
    """Build what this machine can, print what was left out and why; 0 if nothing failed."""
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--force", action="store_true", help="compile everything again")
    force = options.parse_args(arguments).force
    if platform.system() == "Windows":
        print("kernels: not built, they need Linux or macOS (WSL works); PyTorch does the work")
        return 0
    compiler, nvcc = find_compiler(), find_nvcc()
    if compiler is None:
        print("kernels: not built, no g++ or clang++ found; PyTorch does the work")
        return 0
    stamp, tools = fingerprint(), tool_stamp(nvcc, compiler)
    if not force and is_current(stamp, tools):
        print(f"kernels: {LIBRARY.relative_to(ROOT)} is up to date")
        print(f"kernels: CUDA: {cuda_in_library()}")
        return 0
    started = time.perf_counter()
    known = [name for name, flags in INSTRUCTION_SETS.items() if accepts(compiler, flags)]
    try:
        cuda = build(compiler, nvcc, known, (stamp, tools), force)
    except Spilled as error:
        print(f"kernels: not built: {error}")
        return 1
    except subprocess.CalledProcessError as error:
        print(f"kernels: not built, PyTorch does the work; {compiler} reports:\n{error.stderr}")
        return 1
    seconds = time.perf_counter() - started
    print(f"kernels: built {LIBRARY.relative_to(ROOT)} with {compiler} in {seconds:.0f} s")
    print(f"kernels: instruction sets {', '.join(known)}; the best one is chosen at run time")
    if missing := [name for name in INSTRUCTION_SETS if name not in known]:
        print(f"kernels: left out {', '.join(missing)}: {compiler} cannot compile them")
    print(f"kernels: CUDA: {cuda}")
    return 0


def build(
    compiler: str, nvcc: str | None, known: list[str], stamps: tuple[str, str], force: bool
) -> str:
    """Compile and link, without CUDA if nvcc fails; return the architectures, or "none: …".

    Raises: Spilled; CalledProcessError if the CPU part fails.
    """
    stamp, tools = stamps
    try:
        cuda_objects, cuda = translate_cuda(nvcc, compiler, force), ", ".join(ARCHITECTURES)
        cpu_objects = translate(cpu_jobs(compiler, known, stamp, f"{tools}: {cuda}"), force)
        link([str(nvcc), "-ccbin", compiler, *LINK_CUDA], cpu_objects + cuda_objects)
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        cuda_objects, cuda = [], complaint(error)
        cpu_objects = translate(cpu_jobs(compiler, known, stamp, f"{tools}: {cuda}"), force)
        link([compiler, *LINK], cpu_objects)
    for old in set(OBJECTS.glob("*.o")) - {*cpu_objects, *cuda_objects}:
        old.unlink()
    return cuda


def complaint(error: subprocess.CalledProcessError | FileNotFoundError) -> str:
    """Return why there is no CUDA part: nvcc's own message, in characters that C++ can quote."""
    if isinstance(error, FileNotFoundError):
        return "none: no nvcc here"
    lines = [line.strip() for line in error.stderr.splitlines() if "ptxas info" not in line]
    signs = ("error", "undefined", "unsupported")
    telling = [line for line in lines if any(sign in line.lower() for sign in signs)]
    reason = (telling or lines or ["nothing"])[0]
    return "none: " + re.sub(r'["\\]|[^ -~]', "'", f"{Path(error.cmd[0]).name} says: {reason}")


def is_current(stamp: str, tools: str) -> bool:
    """Whether the library matches its sources and this machine cannot add CUDA kernels to it."""
    data = LIBRARY.read_bytes() if LIBRARY.exists() else b""
    if not is_whole(data) or MARK + stamp.encode() not in data:
        return False
    tried_already = CUDA_MARK + tools.encode() + b":" in data
    return not tools or tried_already or not cuda_in_library().startswith("none")


def cuda_in_library() -> str:
    """Return the architectures that the library has kernels for, or "none: …" with the reason."""
    found = re.search(re.escape(CUDA_MARK) + rb"[0-9a-f]*: ([^\0]*)\0", LIBRARY.read_bytes())
    return found[1].decode() if found else "none: built before there were any"


# ---------------------------------------------------------------- this machine's tools


def find_compiler() -> str | None:
    """Return the first of $CXX, g++ and clang++ that exists."""
    wanted = [os.environ.get("CXX"), "g++", "clang++"]
    return next((name for name in wanted if name and shutil.which(name)), None)


def find_nvcc() -> str | None:
    """Return the first nvcc on the path, in $CUDA_HOME or in /usr/local/cuda."""
    homes = [os.environ.get("CUDA_HOME"), "/usr/local/cuda"]
    wanted = ["nvcc", *(f"{home}/bin/nvcc" for home in homes if home)]
    return next((found for name in wanted if (found := shutil.which(name))), None)


def tool_stamp(nvcc: str | None, compiler: str) -> str:
    """Return a hash of the versions of nvcc and its host compiler; empty without nvcc."""
    if nvcc is None:
        return ""
    return hashlib.sha256(version_of(nvcc) + version_of(compiler)).hexdigest()[:12]


def version_of(program: str) -> bytes:
    """Return the output of `program --version`."""
    return subprocess.run([program, "--version"], capture_output=True, check=True).stdout


def accepts(compiler: str, flags: list[str]) -> bool:
    """Whether the compiler accepts the flags of an instruction set."""
    with tempfile.TemporaryDirectory() as folder:
        test = Path(folder) / "empty.cpp"
        test.write_text("int nothing;\n", "utf-8")
        command = [compiler, "-std=c++20", *flags, "-c", str(test), "-o", f"{folder}/empty.o"]
        return subprocess.run(command, capture_output=True).returncode == 0


# ---------------------------------------------------------------- compiling and linking


def cpu_jobs(compiler: str, known: list[str], stamp: str, cuda: str) -> list[Job]:
    """Return the jobs for the CPU: kernels once per instruction set, and the operations."""
    have = [f"-DHAVE_{name}" for name in known]
    isa = KERNELS / "cpu" / "isa" / "isa.cpp"
    jobs = [
        Job(isa, [compiler, *COMMON, f"-DMINI_MOE_ISA={name}", *INSTRUCTION_SETS[name]])
        for name in known
    ]
    marks = [f'-DMINI_MOE_FINGERPRINT="{stamp}"', f'-DMINI_MOE_CUDA="{cuda}"']
    for source in [*KERNELS.glob("cpu/*.cpp"), *KERNELS.glob("cpu/support/*.cpp")]:
        flags = [*have, *(marks if source.stem == "bindings" else [])]
        jobs.append(Job(source, [compiler, *COMMON, *STABLE, *flags, *torch_headers()]))
    return jobs


def translate_cuda(nvcc: str | None, compiler: str, force: bool) -> list[Path]:
    """Compile all CUDA kernels and their bindings; return the object files.

    Raises: FileNotFoundError without nvcc; CalledProcessError, with nvcc's output, if it fails;
    Spilled if a kernel spills registers.
    """
    if nvcc is None:
        raise FileNotFoundError("nvcc")
    device = [nvcc, "-ccbin", compiler, *NVCC, *ARCHITECTURES.values()]
    host = [compiler, *COMMON, *STABLE, *torch_headers()]
    jobs = [Job(source, device) for source in KERNELS.glob("*.cu")]
    jobs += [Job(source, host) for source in KERNELS.glob("cuda/*.cpp")]
    with tempfile.TemporaryDirectory() as folder:  # fails at once if nvcc rejects the compiler
        test = Path(folder) / "empty.cu"
        test.write_text("__global__ void nothing() {}\n", "utf-8")
        run([*device, "-c", str(test), "-o", f"{folder}/empty.o"])
    return translate(jobs, force)


def translate(jobs: list[Job], force: bool) -> list[Path]:
    """Compile the jobs whose sources or flags changed; return every object file."""
    headers = b"".join(p.read_bytes() for p in sources() if p.suffix in (".h", ".cuh"))
    versions = {name: version_of(name) for name in {job.command[0] for job in jobs}}
    OBJECTS.mkdir(parents=True, exist_ok=True)

    def one(job: Job) -> Path:
        parts = [versions[job.command[0]], headers, job.source.read_bytes(), torch_version()]
        digest = hashlib.sha256(b"\0".join([*parts, repr(job.command).encode()])).hexdigest()[:16]
        target = OBJECTS / f"{job.source.parent.name}-{job.source.stem}-{digest}.o"
        if force or not target.exists():
            unfinished = target.with_suffix(".part")
            said = run([*job.command, "-c", str(job.source), "-o", str(unfinished)])
            refuse_spills(job.source, said)
            if "warning:" in said:
                print(said, file=sys.stderr)
            unfinished.replace(target)
        return target

    jobs = sorted(jobs, key=lambda job: job.source.stat().st_size, reverse=True)
    with ThreadPoolExecutor(max_workers=min(os.cpu_count() or 1, 8)) as pool:
        return list(pool.map(one, jobs))


def refuse_spills(source: Path, said: str) -> None:
    """Raise Spilled if ptxas reports that a kernel spills registers."""
    kernel = architecture = ""
    for line in said.splitlines():
        if found := re.search(r"for '(sm_\w+)'", line):
            architecture = found[1]
        if found := re.search(r"Function properties for (\S+)", line):
            kernel = found[1]
        found = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", line)
        if found and (int(found[1]) or int(found[2])):
            name = run(["c++filt", kernel]).strip() if shutil.which("c++filt") else kernel
            raise Spilled(f"{source.name}: {name} spills {found[1]} bytes for {architecture}")


def link(linker: list[str], objects: list[Path], library: Path = LIBRARY) -> None:
    """Link all objects into one sealed library; it replaces the old one only when complete."""
    import torch

    libraries = Path(torch.__file__).parent / "lib"
    unfinished = library.with_suffix(".part")
    command = [*linker, "-shared", *map(str, objects), "-o", str(unfinished)]
    run([*command, f"-L{libraries}", "-ltorch_cpu", "-lc10"])
    with unfinished.open("r+b") as file:
        file.write(seal(file.read()))
    unfinished.replace(library)


def run(command: list[str]) -> str:
    """Return a command's output. Raises: CalledProcessError, with the output, if it fails."""
    done = subprocess.run(
        command, capture_output=True, encoding="utf-8", errors="backslashreplace", check=True
    )
    return done.stdout + done.stderr


def torch_headers() -> list[str]:
    """Return the flags for torch's headers."""
    import torch

    return ["-isystem", str(Path(torch.__file__).parent / "include")]


def torch_version() -> bytes:
    """Return the version of the installed torch, whose headers the objects were compiled with."""
    import torch

    return torch.__version__.encode()


if __name__ == "__main__":
    sys.exit(main())
