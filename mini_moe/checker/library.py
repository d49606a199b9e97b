"""A library of kernels that runs on the CPU under the checker: buffers, calls, reports."""

import ctypes
import math
import re
import threading
from collections import Counter
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch

from mini_moe.checker.commands import run
from mini_moe.checker.reports import CheckerError, LaneAccess, Report, Traffic

ONE_AT_A_TIME = threading.RLock()  # a launch catches signals, and they belong to the process
DTYPES = {torch.float32: 0, torch.bfloat16: 1}  # DType in device.cuh


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
        self.shared_bytes: Counter[str] = Counter()  # of every function's __shared__ arrays
        self.declare_shared_arrays()
        self.position = cache(self.position)

    def declare_shared_arrays(self) -> None:
        """Tell the checker every __shared__ array: a static variable of a kernel."""
        symbol = re.compile(r"(\w+) .{7} \.bss\t(\w+) +(?:\.\w+ )?(.+\).*)::(\w+)$")
        for line in run("objdump", "-tC", str(self.path)).splitlines():
            found = symbol.match(line)
            if not found or found[3].startswith(("checker::", "std::", "guard variable")):
                continue
            address, n_bytes = (int(found[i], 16) for i in (1, 2))
            address += self.library.checker_base()
            self.shared_bytes[found[3].partition("(")[0]] += n_bytes
            self.library.checker_shared(
                ctypes.c_void_p(address), ctypes.c_uint64(n_bytes), found[4].encode()
            )

    def input(self, name: str, values: torch.Tensor, writable: bool = False) -> torch.Tensor:
        """Copy `values` into watched memory; the kernel may not write it unless `writable`."""
        buffer = self.buffer(name, values.shape, values.dtype, writable=writable, written=True)
        return buffer.copy_(values)

    def output(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Allocate a buffer filled with NaN (or −1) that counts as unwritten."""
        return self.buffer(name, shape, dtype, writable=True, written=False)

    def buffer(
        self,
        name: str,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        *,
        writable: bool,
        written: bool,
    ) -> torch.Tensor:
        """Allocate watched memory; only touched pages exist, so it may be larger than the RAM."""
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
        """Count the elements of an output that no kernel has written."""
        return self.library.checker_unwritten(ctypes.c_void_p(buffer.data_ptr()))

    def call(self, name: str, *arguments) -> None:
        """Run a launcher: tensors pass as pointers, numbers as int64_t or double, None as null.

        Raises: ValueError with the launcher's message, CheckerError with the checker's reports.
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
        """Run a launcher; return the traffic of each line; `trace()` has one warp's addresses."""
        self.library.checker_record(1, block, warp)
        try:
            self.call(name, *arguments)
        finally:
            self.library.checker_record(0, block, warp)
        rows = (line.split("\t") for line in self.text("totals"))
        return [Traffic(self.position(r[0]), *r[1:4], *map(int, r[4:])) for r in rows]

    def trace(self) -> list[LaneAccess]:
        """Return every address that the watched warp touched in the last recorded launch."""
        rows = (line.split("\t") for line in self.text("trace"))
        return [
            LaneAccess(self.position(r[0]), int(r[1]), int(r[2]), r[3], int(r[4]), int(r[5]))
            for r in rows
        ]

    @contextmanager
    def reversed_order(self):
        """Run blocks and threads in reverse: results that depend on their order will differ."""
        self.library.checker_reverse(1)
        try:
            yield
        finally:
            self.library.checker_reverse(0)

    def release(self) -> None:
        """Unmap all buffers; tensors in them become invalid."""
        self.library.checker_clear()
        self.library.checker_release()

    def reports(self) -> list[Report]:
        """Return what the checker found in the last call."""
        rows = (line.split("\t") for line in self.text("reports"))
        return [
            Report(kind, self.position(site), self.positions(text)) for kind, site, text in rows
        ]

    def text(self, what: str) -> list[str]:
        """Return the lines of "reports", "totals" or "trace"."""
        return getattr(self.library, f"checker_{what}")().decode().splitlines()

    def positions(self, text: str) -> str:
        """Replace every '@1a2b' in the text by its place, as 'combine.cu:41'."""
        return re.sub(r"@[0-9a-f]+", lambda found: self.position(found[0]), text)

    def position(self, site: str) -> str:
        """Turn '@1a2b', a return address, into 'combine.cu:41', skipping the common headers."""
        address = hex(int(site[1:], 16) - 1)
        lines = run("addr2line", "-ie", str(self.path), address).splitlines()
        frames = [re.sub(r" \(discriminator.*", "", line).split("/")[-1] for line in lines]
        own = [frame for frame in frames if ".cuh:" not in frame and ".h:" not in frame]
        return (own or frames)[0]


def as_c(argument: Any) -> Any:
    """Pass a tensor as its address, a number as int64_t or double, a ctypes object unchanged."""
    if isinstance(argument, torch.Tensor):
        return ctypes.c_void_p(argument.data_ptr())
    if argument is None or isinstance(argument, ctypes.Array):
        return argument
    return ctypes.c_double(argument) if isinstance(argument, float) else ctypes.c_int64(argument)
