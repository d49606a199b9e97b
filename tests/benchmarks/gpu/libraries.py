"""Build what is measured, and call the launchers of kernels/*.cu without torch in between."""

import ctypes
import hashlib
import importlib.util
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

ROOT = Path(__file__).parents[3]
KERNELS = ROOT / "kernels"
FOLDER = ROOT / "build" / "launchers"
LIBRARY = FOLDER / "liblaunchers.so"
DTYPES = {torch.float32: 0, torch.bfloat16: 1}  # DType in kernels/device.cuh


def build(capability: tuple[int, int], seconds: float = 240.0) -> dict:
    """Build the extension, and all launchers as a separate library; {ok, seconds, text} of each."""
    with ThreadPoolExecutor(2) as pool:
        command = [sys.executable, str(KERNELS / "build.py")]
        extension = pool.submit(timed, lambda: with_cuda(run(command, seconds)))
        launchers = pool.submit(timed, lambda: build_launchers(capability, sources()))
        return {"extension": extension.result(), "launchers": launchers.result()}


def find_nvcc() -> str | None:
    """Find nvcc where build.py does: on the path, in $CUDA_HOME, in /usr/local/cuda."""
    spec = importlib.util.spec_from_file_location("kernels_build", KERNELS / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.find_nvcc()


def with_cuda(said: str) -> str:
    """Return build.py's output. Raises: RuntimeError if it left out the CUDA kernels."""
    if "CUDA: none" in said or "not built" in said:
        raise RuntimeError(said)
    return said


def sources() -> list[Path]:
    """Return all kernel sources, including the ladder's steps."""
    return [*sorted(KERNELS.glob("*.cu")), *sorted(KERNELS.glob("ladder/*.cu"))]


def ladder_steps() -> dict[int, str]:
    """Return the number and name of each step: {1: "naive", …}."""
    parts = (path.stem.removeprefix("grouped_gemm_") for path in KERNELS.glob("ladder/*.cu"))
    return dict(sorted((int(n), name) for n, _, name in (part.partition("_") for part in parts)))


def build_launchers(capability: tuple[int, int], files: list[Path], library: Path = LIBRARY) -> str:
    """Build one shared library of plain C functions, compiling the files in parallel.

    A library built from the same sources for the same GPU is reused, and then needs no nvcc.
    Raises: RuntimeError with the compiler's words.
    """
    target = "90a" if capability == (9, 0) else "{}{}".format(*capability)
    flags = ["-std=c++17", "-O3", "-Xcompiler", "-fPIC", f"-I{KERNELS}", "-lineinfo"]
    flags.append(f"-gencode=arch=compute_{target},code=sm_{target}")
    made, stamp = f"{len(files)} files for sm_{target}", stamp_of(target, files)
    stamped = library.with_suffix(".stamp")
    if library.exists() and stamped.exists() and stamped.read_text() == stamp:
        return f"{made}, up to date"
    library.unlink(missing_ok=True)  # so that an old one is not measured if this fails
    nvcc = find_nvcc()
    if nvcc is None:
        raise RuntimeError("there is no nvcc")
    folder = library.parent
    folder.mkdir(parents=True, exist_ok=True)
    objects = [folder / f"{path.stem}.o" for path in files]

    def translate(path: Path, to: Path) -> None:
        run([nvcc, *flags, "-c", str(path), "-o", str(to)])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(translate, files, objects))
    run([nvcc, "-shared", *flags[-1:], *map(str, objects), "-o", str(library)])
    stamped.write_text(stamp)
    return made


def stamp_of(target: str, files: list[Path]) -> str:
    """Hash the GPU target, the sources and their headers; a copy's dates are meaningless."""
    digest = hashlib.sha256(target.encode())
    for path in [*files, *sorted(KERNELS.rglob("*.cuh"))]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def run(command: list[str], seconds: float = 240.0) -> str:
    """Return the end of a command's output. Raises: RuntimeError if it fails."""
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=seconds, stdin=subprocess.DEVNULL
    )
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {(done.stderr or done.stdout)[-3000:]}")
    return done.stdout[-2000:].strip()


def timed(action: Callable[[], str]) -> dict:
    """Return whether an action worked, how long it took, and what it reported."""
    start = time.monotonic()
    try:
        ok, text = True, action()
    except (OSError, RuntimeError, subprocess.TimeoutExpired) as problem:
        ok, text = False, str(problem)
    return {"ok": ok, "seconds": round(time.monotonic() - start, 1), "text": text}


class Launchers:
    """The library's functions: tensors pass as pointers, None as null, and the stream last."""

    def __init__(
        self, path: Path = LIBRARY, stream: Callable[[], int | None] | None = None
    ) -> None:
        self.library = ctypes.CDLL(str(path))
        self.stream = stream or (lambda: torch.cuda.current_stream().cuda_stream)

    def call(self, name: str, *arguments: Tensor | int | float | None) -> None:
        """Launch. Raises: ValueError with the launcher's message."""
        function = self.function(name)
        error = function(*map(as_c, arguments), ctypes.c_void_p(self.stream()))
        if error:
            raise ValueError(error.decode())

    def function(self, name: str) -> Callable[..., bytes | None]:
        """Return a function of the library. Raises: ValueError if there is no such function."""
        try:
            function = getattr(self.library, name)
        except AttributeError:
            raise ValueError(f"{name} is not among the launchers") from None
        function.restype = ctypes.c_char_p
        return function

    def configurations(self, name: str) -> int:
        """Return how many tile sizes `name`_configured offers; 0 if there is no choice."""
        try:
            count = getattr(self.library, f"{name}_configurations")
        except AttributeError:
            return 0
        count.restype = ctypes.c_int64
        return count()


def as_c(argument: Tensor | int | float | None):
    """Convert to a pointer, int64_t, double or null."""
    if isinstance(argument, Tensor):
        return ctypes.c_void_p(argument.data_ptr())
    if argument is None:
        return None
    return ctypes.c_double(argument) if isinstance(argument, float) else ctypes.c_int64(argument)
