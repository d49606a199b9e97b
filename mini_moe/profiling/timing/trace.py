"""A step as a file for Perfetto (https://ui.perfetto.dev) or chrome://tracing, and read back."""

import gzip
import json
import os
import tempfile
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path
from typing import Any

from torch.profiler import profile

from mini_moe.profiling.timing.recording import Part
from mini_moe.profiling.timing.segments import STEP_NAME, Segment

TRACK = 1_000_000  # number of the thread whose row shows the modules
CATEGORY = "mini_moe"
ENDINGS = (".json", ".json.gz")


def check_writable(path: str | Path) -> Path:
    """The path, if a trace can be written there; found out before anything is measured.

    Raises: ValueError for another ending than .json or .json.gz, OSError (FileNotFoundError,
    PermissionError, …) naming the folder where it is missing or nothing can be written.
    """
    path = Path(path)
    if not path.name.endswith(ENDINGS):
        raise ValueError(f"trace={str(path)!r}: a name ending in {' or '.join(ENDINGS)} expected")
    if path.is_dir():
        raise IsADirectoryError(f"trace={str(path)!r}: a file expected, this is a folder")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"trace={str(path)!r}: there is no folder {str(path.parent)!r}")
    try:
        handle, name = tempfile.mkstemp(prefix=".trace-", dir=path.parent)
    except OSError as error:
        reason = error.strerror or "nothing can be written there"
        message = f"trace={str(path)!r}: folder {str(path.parent)!r}: {reason}"
        raise type(error)(error.errno, message) from None
    os.close(handle)
    os.unlink(name)
    return path


def write_trace(profiler: profile, segments: Iterable[Segment], path: Path) -> None:
    """Write what torch's profiler saw, with a row of its own for the parts of the model.

    The file appears whole or not at all: an interrupt, or a full disk, leaves what was there.
    """
    with tempfile.TemporaryDirectory(prefix=".trace-", dir=path.parent) as folder:
        raw, whole = Path(folder) / "raw.json", Path(folder) / path.name
        profiler.export_chrome_trace(str(raw))
        events = json.loads(raw.read_text(encoding="utf-8"), parse_float=Decimal)
        content = with_modules(events, segments)
        text = json.dumps(  # Perfetto shows \\u00b7
            content, separators=(",", ":"), ensure_ascii=False, default=float
        )
        if path.name.endswith(".gz"):
            whole.write_bytes(gzip.compress(text.encode()))
        else:
            whole.write_text(text, encoding="utf-8")
        os.replace(whole, path)


def with_modules(content: dict[str, Any], segments: Iterable[Segment]) -> dict[str, Any]:
    """Chrome's events, and one more row: every segment by the name of its module and its phase.

    Perfetto wants slices inside one another or apart, and drops one that overlaps another by a
    nanosecond. So times are whole nanoseconds, counted from the first event: since the machine was
    started there are too many for a float.
    """
    events = content["traceEvents"]
    first = min(nanoseconds(e["ts"]) for e in events if "ts" in e)
    events = [e | {"ts": nanoseconds(e["ts"]) - first} if "ts" in e else e for e in events]
    events = [e | {"dur": nanoseconds(e["dur"])} if "dur" in e else e for e in events]
    root = next(e for e in events if e.get("name") == STEP_NAME and e.get("ph") == "X")
    row, zero = {"pid": root["pid"], "tid": TRACK}, root["ts"]
    for event in events:
        if event.get("name") == "thread_name" and event.get("tid") == root["tid"]:
            event["args"] = {"name": "operations"}
    added = [
        {"ph": "M", "name": "thread_name", "args": {"name": "modules"}, **row},
        {"ph": "M", "name": "thread_sort_index", "args": {"sort_index": -1}, **row},
    ]
    free = zero  # the row is free from here on
    for segment in sorted(segments, key=lambda segment: segment.start):
        start = max(free, zero + round(segment.start * 1e9))
        free = max(start, zero + round((segment.start + segment.seconds) * 1e9))
        added.append(
            {
                "ph": "X",
                "cat": CATEGORY,
                "name": f"{segment.part.path} · {segment.phase}",
                "ts": start,
                "dur": free - start,
                "args": {
                    "kind": segment.part.kind,
                    "phase": segment.phase,
                    "path": segment.part.path,
                    "calls": segment.calls,
                    "device µs": segment.device_seconds * 1e6,
                },
                **row,
            }
        )
    for event in (whole := events + added):
        event |= {name: microseconds(event[name]) for name in ("ts", "dur") if name in event}
    base = int(content.get("baseTimeNanoseconds", 0)) + first
    return content | {"traceEvents": whole, "baseTimeNanoseconds": base}


def nanoseconds(microseconds: float | Decimal) -> int:
    """What torch writes, to three places after the point; a float may be one off."""
    return round(microseconds * 1000)


def microseconds(nanoseconds: int) -> float:
    """What Chrome's format wants; a little more, for Perfetto cuts off what is less than one."""
    return (nanoseconds + 0.2) / 1000


def read_trace(path: str | Path) -> list[Segment]:
    """The segments of a trace that this package wrote, in order of time.

    Raises: ValueError for a file that is no such trace, OSError for one that can't be read.
    """
    data = Path(path).read_bytes()
    try:
        text = gzip.decompress(data) if str(path).endswith(".gz") else data
        events = json.loads(text)["traceEvents"]
        root = next(e for e in events if e.get("name") == STEP_NAME and e.get("ph") == "X")
        ours = [e for e in events if e.get("cat") == CATEGORY]
        segments = [_segment(event, root["ts"]) for event in ours]
    except (ValueError, KeyError, TypeError, EOFError, StopIteration, gzip.BadGzipFile):
        raise ValueError(f"{str(path)!r}: a trace written by mini_moe.profiling expected") from None
    return sorted(segments, key=lambda segment: segment.start)


def _segment(event: dict[str, Any], zero: float) -> Segment:
    about = event["args"]
    start, seconds = (event["ts"] - zero) / 1e6, event["dur"] / 1e6
    part = Part(about["kind"], about["path"])
    device = about["device µs"] / 1e6
    return Segment(part, about["phase"], start, seconds, about["calls"], device)
