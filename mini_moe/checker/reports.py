"""What the checker tells: what went wrong, what every line moved, what every lane touched."""

import re
from typing import NamedTuple


class Report(NamedTuple):
    """One thing that the checker saw."""

    # out of bounds, unwritten, race, divergence, misaligned, read-only, overflow, endless,
    # division by zero, stack overflow, assertion, stopped
    kind: str
    place: str  # "combine.cu:41"
    text: str

    def __str__(self) -> str:
        return f"{self.kind} at {self.place}: {self.text}"

    def sentence(self) -> str:
        """The same in plain words: "race in line 4: thread 3 reads …; thread 4 wrote it at line 2".

        Blocks are named unless it is block 0.
        """
        text = re.sub(r"block \((\d+),(\d+),(\d+)\) thread \((\d+),(\d+),(\d+)\)", _who, self.text)
        text = re.sub(r"thread \((\d+),0,0\)", r"thread \1", text).removeprefix("in ")
        text = re.sub(r"(?<= at )[\w./-]+:(\d+)", r"line \1", text)
        text = text.replace(", 0 bytes behind", ", right behind")
        return f"{self.kind} in line {self.place.rpartition(':')[2]}: {text}"


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


class CompileError(ValueError):
    """g++ does not accept a kernel; the message has the lines of the kernel, as they were given."""


class NoCompiler(RuntimeError):
    """This machine cannot compile kernels for the checker; the message says what is missing."""


def _who(found: re.Match[str]) -> str:
    *block, x, y, z = found.groups()
    thread = x if (y, z) == ("0", "0") else f"({x}, {y})" if z == "0" else f"({x}, {y}, {z})"
    number = ", ".join(block) if block[1:] != ["0", "0"] else block[0]
    return f"thread {thread}" + (f" of block {number}" if number != "0" else "")
