"""Recorded runs of a lesson's own kernels, for machines without g++.

`tests/checker/record.py` writes recordings.json from the notebook. A run is looked up by all of its
inputs, source included, so a changed kernel never gets a stale recording.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mini_moe.checker.compiling import why_not
from mini_moe.checker.reports import CheckerError, LaneAccess, NoCompiler, Report, Traffic

FILE = Path(__file__).with_name("recordings.json")
_collected: dict[str, Any] | None = None


@dataclass(frozen=True)
class Run:
    """What one launch did."""

    kernel: str
    outputs: dict[str, Tensor]
    traffic: list[Traffic]
    trace: list[LaneAccess]  # one warp's

    def __getitem__(self, name: str) -> Tensor:
        return self.outputs[name]

    def moved(self, buffer: str, access: str = "") -> Traffic:
        """Sum the traffic of one buffer; `access` is "read", "write" or "atomic".

        Raises: ValueError if there is none.
        """
        rows = [t for t in self.traffic if t.buffer == buffer and access in ("", t.access)]
        if not rows:
            touched = ", ".join(sorted({t.buffer for t in self.traffic})) or "nothing"
            raise ValueError(f"{buffer}: no {access or 'access'}; {self.kernel} touched {touched}")
        places = ", ".join(dict.fromkeys(row.place for row in rows))
        sums = [sum(column) for column in zip(*(row[4:] for row in rows), strict=True)]
        return Traffic(places, rows[0].space, access or "all", buffer, *sums)


def key_of(source: str, launch: tuple, arguments: Mapping[str, Any]) -> str:
    """Return a hash of the source, the launch, and every bit of the arguments."""
    digest = hashlib.sha256(f"{source}\0{launch}".encode())
    for name, value in sorted(arguments.items()):
        if isinstance(value, Tensor):
            digest.update(f"\0{name} {value.dtype} {list(value.shape)} ".encode())
            digest.update(value.contiguous().flatten().view(torch.uint8).numpy().tobytes())
        else:
            digest.update(f"\0{name} {value!r}".encode())
    return digest.hexdigest()[:24]


def recall(key: str) -> Run:
    """Return the recorded run.

    Raises: CheckerError if that was recorded; NoCompiler if nothing was.
    """
    known = recordings().get(key)
    if known is None:
        raise NoCompiler(why_not())
    if "reports" in known:
        raise CheckerError([Report(*row) for row in known["reports"]])
    outputs = {
        name: torch.tensor(values, dtype=getattr(torch, dtype)).view(shape)
        for name, (dtype, shape, values) in known["outputs"].items()
    }
    traffic = [Traffic(*row) for row in known["traffic"]]
    return Run(known["kernel"], outputs, traffic, unpacked(known["trace"]))


@cache
def recordings() -> dict[str, Any]:
    """Return all recordings by key."""
    return json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}


def remember(key: str, outcome: Run | CheckerError) -> None:
    """Keep the outcome of a run inside `collecting`."""
    if _collected is None:
        return
    if isinstance(outcome, CheckerError):
        _collected[key] = {"reports": [list(report) for report in outcome.reports]}
        return
    outputs = {
        name: [str(value.dtype)[6:], list(value.shape), value.flatten().tolist()]
        for name, value in outcome.outputs.items()
    }
    _collected[key] = {
        "kernel": outcome.kernel,
        "outputs": outputs,
        "traffic": [list(row) for row in outcome.traffic],
        "trace": packed(outcome.trace),
    }


def packed(trace: list[LaneAccess]) -> list[list]:
    """Pack a trace, one row per instruction: [place, time, buffer, bytes, lanes, offsets]."""
    rows: dict[tuple, list] = {}
    for a in trace:
        key = (a.place, a.time, a.buffer, a.bytes)
        row = rows.setdefault(key, [*key, [], []])
        row[4].append(a.lane)
        row[5].append(a.offset)
    return list(rows.values())


def unpacked(rows: list[list]) -> list[LaneAccess]:
    """Undo `packed`."""
    return [
        LaneAccess(place, time, lane, buffer, offset, n_bytes)
        for place, time, buffer, n_bytes, lanes, offsets in rows
        for lane, offset in zip(lanes, offsets, strict=True)
    ]


@contextmanager
def collecting() -> Iterator[dict[str, Any]]:
    """Collect every run inside the block in a dictionary."""
    global _collected
    _collected = {}
    try:
        yield _collected
    finally:
        _collected = None
