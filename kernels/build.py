"""Builds the compiled operations: C++ for the CPU into `mini_moe/_C.abi3.so`.

`make kernels` runs this. One file serves torch 2.11 and newer and every Python: it uses torch's
stable interface alone. The kernels are translated once for each instruction set, and the best that
the processor has is chosen when they run. What did not change is not translated again.
"""

import argparse
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from mini_moe.ops.compiled import LIBRARY, MARK, fingerprint, sources  # noqa: E402

OBJECTS = ROOT / "build" / "kernels"
COMMON = ["-std=c++20", "-O3", "-fPIC", "-fvisibility=hidden", "-w"]
STABLE = ["-DTORCH_TARGET_VERSION=0x020b000000000000ULL"]  # 2.11, the oldest torch it loads in
AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mfma"]
INSTRUCTION_SETS = {
    "avx512_bf16": [*AVX512, "-mavx512bf16"],
    "avx512": AVX512,
    "avx2": ["-mavx2", "-mfma"],
    "portable": [],
}


def main() -> int:
    """Build what this machine can, say what was built and what not and why; 0 if nothing failed."""
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--force", action="store_true", help="translate everything again")
    force = options.parse_args().force
    compiler = find_compiler()
    if compiler is None:
        print("kernels: not built, there is no g++ or clang++ here; PyTorch does the work")
        return 0
    stamp = fingerprint()
    if not force and LIBRARY.exists() and MARK + stamp.encode() in LIBRARY.read_bytes():
        print(f"kernels: {LIBRARY.relative_to(ROOT)} is up to date")
        return 0
    started = time.perf_counter()
    known = [name for name, flags in INSTRUCTION_SETS.items() if accepts(compiler, flags)]
    try:
        objects = translate(compiler, known, stamp, force)
        link(compiler, objects)
    except subprocess.CalledProcessError as error:
        print(f"kernels: not built, PyTorch does the work; {compiler} says:\n{error.stderr}")
        return 1
    seconds = time.perf_counter() - started
    print(f"kernels: built {LIBRARY.relative_to(ROOT)} with {compiler} in {seconds:.0f} s")
    print(f"kernels: instruction sets {', '.join(known)}; chosen when they run")
    if missing := [name for name in INSTRUCTION_SETS if name not in known]:
        print(f"kernels: left out {', '.join(missing)}: {compiler} cannot translate for them here")
    return 0


def find_compiler() -> str | None:
    """$CXX, g++ or clang++: the first that is there."""
    wanted = [os.environ.get("CXX"), "g++", "clang++"]
    return next((name for name in wanted if name and shutil.which(name)), None)


def accepts(compiler: str, flags: list[str]) -> bool:
    """Whether the compiler translates for an instruction set."""
    with tempfile.TemporaryDirectory() as folder:
        test = Path(folder) / "empty.cpp"
        test.write_text("int nothing;\n")
        command = [compiler, "-std=c++20", *flags, "-c", str(test), "-o", f"{folder}/empty.o"]
        return subprocess.run(command, capture_output=True).returncode == 0


def translate(compiler: str, known: list[str], stamp: str, force: bool) -> list[Path]:
    """Every object file; those whose sources and flags are unchanged are taken from before."""
    import torch

    cpu = ROOT / "kernels" / "cpu"
    have = [f"-DHAVE_{name}" for name in known]
    include = ["-I", str(Path(torch.__file__).parent / "include")]
    jobs = [
        (cpu / "isa" / "isa.cpp", [f"-DMINI_MOE_ISA={name}", *INSTRUCTION_SETS[name]])
        for name in known
    ]
    for source in sorted([*cpu.glob("*.cpp"), *cpu.glob("support/*.cpp")]):
        flags = [*STABLE, *have, *include]
        if source.stem == "bindings":
            flags.append(f'-DMINI_MOE_FINGERPRINT="{stamp}"')
        jobs.append((source, flags))
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True).stdout
    headers = b"".join(path.read_bytes() for path in sources() if path.suffix == ".h")
    OBJECTS.mkdir(parents=True, exist_ok=True)

    def one(job: tuple[Path, list[str]]) -> Path:
        source, flags = job
        flags = [*COMMON, *flags]
        parts = [version, headers, source.read_bytes(), repr(flags).encode(), torch_version()]
        digest = hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]
        target = OBJECTS / f"{source.stem}-{digest}.o"
        if force or not target.exists():
            unfinished = target.with_suffix(".part")
            command = [compiler, *flags, "-c", str(source), "-o", str(unfinished)]
            subprocess.run(command, capture_output=True, text=True, check=True)
            unfinished.replace(target)
        return target

    with ThreadPoolExecutor(max_workers=min(os.cpu_count() or 1, 8)) as pool:
        objects = list(pool.map(one, jobs))
    for old in set(OBJECTS.glob("*.o")) - set(objects):
        old.unlink()
    return objects


def link(compiler: str, objects: list[Path]) -> None:
    """One library from all objects; it replaces the old one only when it is whole."""
    import torch

    libraries = Path(torch.__file__).parent / "lib"
    unfinished = LIBRARY.with_suffix(".part")
    apple = ["-undefined", "dynamic_lookup"] if platform.system() == "Darwin" else []
    command = [compiler, "-shared", *map(str, objects), "-o", str(unfinished), *apple]
    command += [f"-L{libraries}", "-ltorch_cpu", "-lc10"]
    subprocess.run(command, capture_output=True, text=True, check=True)
    unfinished.replace(LIBRARY)


def torch_version() -> bytes:
    """The installed torch, whose headers the objects were translated with."""
    import torch

    return torch.__version__.encode()


if __name__ == "__main__":
    sys.exit(main())
