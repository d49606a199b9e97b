"""The checker's results: errors, the traffic of every line, the accesses of every lane."""

import re
from typing import NamedTuple


class Report(NamedTuple):
    """One error that the checker found."""

    # out of bounds, unwritten, race, divergence, misaligned, read-only, overflow, endless,
    # division by zero, stack overflow, assertion, stopped
    kind: str
    place: str  # "combine.cu:41"
    text: str

    def __str__(self) -> str:
        return f"{self.kind} at {self.place}: {self.text}"

    def sentence(self) -> str:
        """Return the report in plain words.

        "race in line 4: thread 3 reads …; thread 4 wrote it at line 2".

        The block is named unless it is block 0.
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
    time: int  # how often this lane had executed this instruction before
    lane: int
    buffer: str
    offset: int  # bytes from the start of the buffer
    bytes: int


class CheckerError(AssertionError):
    """Raised if a kernel did something illegal; `.reports` says what and where."""

    def __init__(self, reports: list[Report]) -> None:
        super().__init__("\n".join(str(report) for report in reports))
        self.reports = reports


class CompileError(ValueError):
    """Raised if g++ rejects a kernel; the message refers to lines of the source as given."""


class NoCompiler(RuntimeError):
    """Raised if this machine cannot compile for the checker; the message says what is missing."""


def _who(found: re.Match[str]) -> str:
    *block, x, y, z = found.groups()
    thread = x if (y, z) == ("0", "0") else f"({x}, {y})" if z == "0" else f"({x}, {y}, {z})"
    number = ", ".join(block) if block[1:] != ["0", "0"] else block[0]
    return f"thread {thread}" + (f" of block {number}" if number != "0" else "")
