"""Builds CUDA sources with g++ and runs them on the CPU under the checker of kernels/checker/.

library = build([KERNELS / "combine.cu"], folder)
y = library.input("y", tensor)              # a tensor in watched memory, read-only
out = library.output("out", (8, 64), torch.float32)
library.call("combine_forward", y, out, …)  # ValueError, CheckerError, or nothing to complain
library.recorded("combine_forward", …)      # the same, and what every line of source moved
"""

import ctypes
import math
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch

KERNELS = Path(__file__).parents[2] / "kernels"
DTYPES = {torch.float32: 0, torch.bfloat16: 1}  # DType in device.cuh
CHECKER = ("fibers", "waiting", "regions", "memory", "instruments", "recorder")
COMMON = ["-std=c++17", "-fPIC", "-g", "-Wall", "-Wextra", f"-I{KERNELS}", "-U_FORTIFY_SOURCE"]
# -fno-thread-jumps: one load in the source stays one load; nvcc predicates where g++ would copy.
INSTRUMENTED = [
    "-x", "c++", "-O1", "-fno-thread-jumps", "-fno-gnu-unique", "-fno-exceptions",
    "-Wno-attributes", "-Wno-unknown-pragmas",
    "-fsanitize=thread,bounds,signed-integer-overflow,shift",
    "--param", "tsan-instrument-func-entry-exit=0",
]  # fmt: skip


class Report(NamedTuple):
    """One thing that the checker saw."""

    kind: str  # out of bounds, unwritten, race, divergence, misaligned, read-only, overflow
    place: str  # "combine.cu:41"
    text: str

    def __str__(self) -> str:
        return f"{self.kind} at {self.place}: {self.text}"


class Traffic(NamedTuple):
    """What one line of source did to one buffer, over all warps of a launch."""

    place: str
    space: str  # global or shared
    access: str  # read, write or atomic
    buffer: str
    executions: int  # by a warp
    lanes: int
    bytes: int
    sectors: int  # of 32 bytes that moved
    best_sectors: int  # if the lanes' bytes lay side by side
    lines: int  # of 128 bytes
    wavefronts: int  # cycles of shared memory
    best_wavefronts: int  # without bank conflicts


class LaneAccess(NamedTuple):
    """What one lane of the watched warp touched."""

    place: str
    time: int  # how often this lane had passed this instruction before
    lane: int
    buffer: str
    offset: int  # bytes from the buffer's begin
    bytes: int


class CheckerError(AssertionError):
    """A kernel did what it may not do; `.reports` says what and where."""

    def __init__(self, reports: list[Report]) -> None:
        super().__init__("\n".join(str(report) for report in reports))
        self.reports = reports


def build(sources: list[Path], folder: Path, name: str = "checked") -> "Checked":
    """Compile the sources and the checker into one library, and load it; the name must be new."""
    jobs = [(KERNELS / "checker" / f"{part}.cpp", "checker", ["-O2"]) for part in CHECKER]
    jobs = [job for job in jobs if not object_of(job, folder).exists()]
    jobs += [(Path(source), name, INSTRUMENTED) for source in sources]

    def compile_one(job: tuple[Path, str, list[str]]) -> None:
        run("g++", *COMMON, *job[2], "-c", str(job[0]), "-o", str(object_of(job, folder)))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(compile_one, jobs))
    objects = [folder / f"checker-{part}.o" for part in CHECKER]
    objects += [object_of((Path(source), name, []), folder) for source in sources]
    library = folder / f"lib{name}.so"
    run("g++", "-shared", "-Wl,-Bsymbolic,--no-undefined", "-o", str(library), *map(str, objects))
    return Checked(library)


def object_of(job: tuple[Path, str, list[str]], folder: Path) -> Path:
    """Where a compiled source lies: the checker's parts once, a kernel once a library."""
    source, name, _ = job
    return folder / f"{name}-{source.stem}.o"


def run(*command: str) -> str:
    """The command's output. Raises: RuntimeError with the compiler's words where it fails."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    if "warning:" in done.stderr:
        raise RuntimeError(f"a warning is an error here: {done.stderr}")
    return done.stdout


class Checked:
    """A library of kernels that runs under the checker."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.library = ctypes.CDLL(str(path))
        for function, result in (
            ("buffer", ctypes.c_void_p),
            ("base", ctypes.c_uint64),
            ("unwritten", ctypes.c_uint64),
            ("reports", ctypes.c_char_p),
            ("totals", ctypes.c_char_p),
            ("trace", ctypes.c_char_p),
        ):
            getattr(self.library, f"checker_{function}").restype = result
        self.declare_shared_arrays()
        self.position = cache(self.position)

    def declare_shared_arrays(self) -> None:
        """Tell the checker every __shared__ array: a static variable of a kernel."""
        symbol = re.compile(r"(\w+) .{7} \.bss\t(\w+) +(?:\.\w+ )?(.+\).*)::(\w+)$")
        for line in run("objdump", "-tC", str(self.path)).splitlines():
            found = symbol.match(line)
            if not found or found[3].startswith(("checker::", "std::", "guard variable")):
                continue
            address = self.library.checker_base() + int(found[1], 16)
            self.library.checker_shared(
                ctypes.c_void_p(address), ctypes.c_uint64(int(found[2], 16)), found[4].encode()
            )

    def input(self, name: str, values: torch.Tensor, writable: bool = False) -> torch.Tensor:
        """A copy of `values` in watched memory; the kernel may not write it unless `writable`."""
        buffer = self.buffer(name, values.shape, values.dtype, writable=writable, written=True)
        return buffer.copy_(values)

    def output(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """A buffer full of NaN (or −1) that counts as unwritten."""
        return self.buffer(name, shape, dtype, writable=True, written=False)

    def buffer(self, name, shape, dtype, *, writable: bool, written: bool) -> torch.Tensor:
        """Watched memory; only pages that are touched exist, so it may be larger than the RAM."""
        size = dtype.itemsize
        n_bytes = math.prod(shape) * size
        address = self.library.checker_buffer(
            name.encode(), *map(ctypes.c_uint64, (n_bytes, size)), int(writable), int(written)
        )
        if not address:
            raise MemoryError(f"no room for the addresses of {name}, {n_bytes} bytes")
        if not n_bytes:
            return torch.empty(shape, dtype=dtype)
        memory = (ctypes.c_char * n_bytes).from_address(address)
        return torch.frombuffer(memory, dtype=dtype).view(shape)

    def fill(self, buffer: torch.Tensor, offset: int, n_bytes: int) -> None:
        """Write zeros into a part of a buffer, as the host would."""
        address = ctypes.c_void_p(buffer.data_ptr() + offset)
        self.library.checker_fill(address, 0, ctypes.c_uint64(n_bytes))

    def unwritten(self, buffer: torch.Tensor) -> int:
        """How many elements of an output no kernel has written."""
        return self.library.checker_unwritten(ctypes.c_void_p(buffer.data_ptr()))

    def call(self, name: str, *arguments) -> None:
        """Run a launcher: tensors pass as pointers, numbers as int64_t or double, None as null.

        Raises: ValueError with the launcher's words, CheckerError with the checker's reports.
        """
        function = getattr(self.library, name)
        function.restype = ctypes.c_char_p
        self.library.checker_clear()
        error = function(*map(as_c, arguments), None)  # the last argument is the stream
        if reports := self.reports():
            raise CheckerError(reports)
        if error:
            raise ValueError(error.decode())

    def recorded(self, name: str, *arguments, block: int = 0, warp: int = 0) -> list[Traffic]:
        """Run a launcher and return what each line moved; `trace()` has one warp's addresses."""
        self.library.checker_record(1, block, warp)
        try:
            self.call(name, *arguments)
        finally:
            self.library.checker_record(0, block, warp)
        rows = (line.split("\t") for line in self.text("totals"))
        return [Traffic(self.position(r[0]), *r[1:4], *map(int, r[4:])) for r in rows]

    def trace(self) -> list[LaneAccess]:
        """Every address that the watched warp touched in the last recorded launch."""
        rows = (line.split("\t") for line in self.text("trace"))
        return [
            LaneAccess(self.position(r[0]), int(r[1]), int(r[2]), r[3], int(r[4]), int(r[5]))
            for r in rows
        ]

    @contextmanager
    def reversed_order(self):
        """Blocks and threads run in the opposite order: what depends on it, comes out otherwise."""
        self.library.checker_reverse(1)
        try:
            yield
        finally:
            self.library.checker_reverse(0)

    def release(self) -> None:
        """Unmap all buffers; tensors that lie in them are dead."""
        self.library.checker_clear()
        self.library.checker_release()

    def reports(self) -> list[Report]:
        """What the checker saw in the last call."""
        rows = (line.split("\t") for line in self.text("reports"))
        return [
            Report(kind, self.position(site), self.positions(text)) for kind, site, text in rows
        ]

    def text(self, what: str) -> list[str]:
        return getattr(self.library, f"checker_{what}")().decode().splitlines()

    def positions(self, text: str) -> str:
        return re.sub(r"@[0-9a-f]+", lambda found: self.position(found[0]), text)

    def position(self, site: str) -> str:
        """'@1a2b', an address behind a call, as 'combine.cu:41', outside the common headers."""
        address = hex(int(site[1:], 16) - 1)
        lines = run("addr2line", "-ie", str(self.path), address).splitlines()
        frames = [re.sub(r" \(discriminator.*", "", line).split("/")[-1] for line in lines]
        own = [frame for frame in frames if ".cuh:" not in frame and ".h:" not in frame]
        return (own or frames)[0]


def as_c(argument):
    if isinstance(argument, torch.Tensor):
        return ctypes.c_void_p(argument.data_ptr())
    if argument is None:
        return None
    return ctypes.c_double(argument) if isinstance(argument, float) else ctypes.c_int64(argument)
