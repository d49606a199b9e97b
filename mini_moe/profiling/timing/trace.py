"""Write a step as a trace for Perfetto (https://ui.perfetto.dev) or chrome://tracing; read it."""

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

TRACK = 1_000_000  # thread id of the track that shows the modules
CATEGORY = "mini_moe"
ENDINGS = (".json", ".json.gz")


def check_writable(path: str | Path) -> Path:
    """Return the path if a trace can be written there; call this before measuring anything.

    Raises: ValueError unless the name ends in .json or .json.gz, OSError (FileNotFoundError,
    PermissionError, …) naming the folder if it is missing or not writable.
    """
    path = Path(path)
    if not path.name.endswith(ENDINGS):
        raise ValueError(f"trace={str(path)!r}: a name ending in {' or '.join(ENDINGS)} expected")
    if path.is_dir():
        raise IsADirectoryError(f"trace={str(path)!r}: a file expected, got a folder")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"trace={str(path)!r}: there is no folder {str(path.parent)!r}")
    try:
        handle, name = tempfile.mkstemp(prefix=".trace-", dir=path.parent)
    except OSError as error:
        reason = error.strerror or "not writable"
        message = f"trace={str(path)!r}: folder {str(path.parent)!r}: {reason}"
        raise type(error)(error.errno, message) from None
    os.close(handle)
    os.unlink(name)
    return path


def write_trace(profiler: profile, segments: Iterable[Segment], path: Path) -> None:
    """Write what torch's profiler recorded, with an extra track for the parts of the model.

    The file is replaced completely or not at all: after an interrupt or on a full disk, the old
    one remains.
    """
    with tempfile.TemporaryDirectory(prefix=".trace-", dir=path.parent) as folder:
        raw, whole = Path(folder) / "raw.json", Path(folder) / path.name
        profiler.export_chrome_trace(str(raw))
        events = json.loads(raw.read_text(encoding="utf-8"), parse_float=Decimal)
        content = with_modules(events, segments)
        text = json.dumps(  # Perfetto would display an escape such as \\u00b7 literally
            content, separators=(",", ":"), ensure_ascii=False, default=float
        )
        if path.name.endswith(".gz"):
            whole.write_bytes(gzip.compress(text.encode()))
        else:
            whole.write_text(text, encoding="utf-8")
        os.replace(whole, path)


def with_modules(content: dict[str, Any], segments: Iterable[Segment]) -> dict[str, Any]:
    """Add a track to Chrome's events: every segment, named after its module and phase.

    Perfetto requires slices to be nested or disjoint, and drops one that overlaps another by even a
    nanosecond. So times are whole nanoseconds since the first event: counted from when the machine
    started, they would exceed a float's precision.
    """
    events = content["traceEvents"]
    first = min(nanoseconds(e["ts"]) for e in events if "ts" in e)
    events = [e | {"ts": nanoseconds(e["ts"]) - first} if "ts" in e else e for e in events]
    events = [e | {"dur": nanoseconds(e["dur"])} if "dur" in e else e for e in events]
    root = next(e for e in events if e.get("name") == STEP_NAME and e.get("ph") == "X")
    track, zero = {"pid": root["pid"], "tid": TRACK}, root["ts"]
    for event in events:
        if event.get("name") == "thread_name" and event.get("tid") == root["tid"]:
            event["args"] = {"name": "operations"}
    added = [
        {"ph": "M", "name": "thread_name", "args": {"name": "modules"}, **track},
        {"ph": "M", "name": "thread_sort_index", "args": {"sort_index": -1}, **track},
    ]
    free = zero  # the track is free from here on
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
                **track,
            }
        )
    for event in (whole := events + added):
        event |= {name: microseconds(event[name]) for name in ("ts", "dur") if name in event}
    base = int(content.get("baseTimeNanoseconds", 0)) + first
    return content | {"traceEvents": whole, "baseTimeNanoseconds": base}


def nanoseconds(microseconds: float | Decimal) -> int:
    """Convert microseconds as torch writes them, with three decimals; a float may be one off."""
    return round(microseconds * 1000)


def microseconds(nanoseconds: int) -> float:
    """Convert to Chrome's unit, plus a little, because Perfetto truncates to whole nanoseconds."""
    return (nanoseconds + 0.2) / 1000


def read_trace(path: str | Path) -> list[Segment]:
    """Read the segments of a trace that this package wrote, in order of time.

    Raises: ValueError for any other file, OSError for one that can't be read.
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
