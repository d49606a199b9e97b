import errno
import gzip
import json
import tempfile

import pytest
from torch.profiler import profile

from mini_moe.profiling import profile_step, read_trace
from mini_moe.profiling.timing import Segment
from mini_moe.profiling.timing import trace as trace_module
from mini_moe.profiling.timing.recording import Part
from mini_moe.profiling.timing.segments import STEP_NAME
from mini_moe.profiling.timing.trace import check_writable


@pytest.fixture(params=["step.json", "step.json.gz"])
def written(request, model, config, corpus, tmp_path):
    path = tmp_path / request.param
    return path, profile_step(model, config, corpus, steps=1, warm_up=0, trace=path)


def events_of(path):
    data = path.read_bytes()
    return json.loads(gzip.decompress(data) if path.suffix == ".gz" else data)["traceEvents"]


def test_reading_returns_the_segments(written):
    path, profile = written
    segments = read_trace(path)
    assert [s.part for s in segments] == [s.part for s in profile.segments]
    assert [s.phase for s in segments] == [s.phase for s in profile.segments]
    for one, other in zip(segments, profile.segments, strict=True):
        assert one.seconds == pytest.approx(other.seconds, abs=1e-9)


def test_module_names_are_visible_forward_and_backward(written):
    names = {event["name"] for event in events_of(written[0]) if "name" in event}
    assert "layers.1.mlp.experts (experts)" in names
    assert {"layers.1.self_attn · forward", "layers.1.self_attn · backward"} <= names


def nanoseconds(event):
    """Return start and end as Perfetto stores them."""
    start = int(event["ts"] * 1e3)
    return start, start + int(event["dur"] * 1e3)


def test_slices_of_a_track_are_nested_or_disjoint(written):
    """To the nanosecond, because Perfetto drops a slice that partly overlaps another one."""
    tracks = {}
    for event in events_of(written[0]):
        if event.get("ph") == "X":
            tracks.setdefault((event["pid"], event["tid"]), []).append((*nanoseconds(event), event))
    assert len(tracks) >= 2
    for track in tracks.values():
        stack = []
        for start, end, event in sorted(track, key=lambda slice: (slice[0], -slice[1])):
            while stack and stack[-1] <= start:
                stack.pop()
            assert not stack or end <= stack[-1], event["name"]
            stack.append(end)


def test_adjacent_slices_meet_whatever_the_clock_reads():
    """After weeks, a float of microseconds has no precision left for fractions of nanoseconds."""
    part, third = Part("norms", "norm"), 1e-6 / 3
    segments = [Segment(part, "forward", n * third, third, 1, 0.0) for n in range(300)]
    root = {"ph": "X", "name": STEP_NAME, "pid": 1, "tid": 1, "ts": 4_474_536_588_273.625}
    events = trace_module.with_modules({"traceEvents": [root]}, segments)["traceEvents"]
    slices = [nanoseconds(event) for event in events if event.get("cat") == "mini_moe"]
    assert [end for _, end in slices[:-1]] == [start for start, _ in slices[1:]]
    assert slices[-1][1] - slices[0][0] == 100_000


def test_names_are_written_without_escapes(written):
    """Perfetto displays a JSON escape literally, backslash included."""
    data = written[0].read_bytes()
    text = gzip.decompress(data) if written[0].suffix == ".gz" else data
    assert "self_attn · forward".encode() in text and b"\\u00b7" not in text


def test_nothing_else_is_left_in_the_folder(written):
    path, _ = written
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_old_trace(written, model, config, corpus, monkeypatch, error):
    path, _ = written
    before = path.read_bytes()

    def fail(*_):
        raise error

    monkeypatch.setattr(trace_module.os, "replace", fail)
    with pytest.raises(type(error)):
        profile_step(model, config, corpus, steps=1, warm_up=0, trace=path)
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


def test_a_read_only_folder_is_named(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(tempfile, "mkstemp", refuse)  # simulated, since root may write anywhere
    with pytest.raises(PermissionError, match=f"{tmp_path}.*Permission denied"):
        check_writable(tmp_path / "step.json")


def test_other_endings_and_folders_are_refused(tmp_path):
    with pytest.raises(ValueError, match="json.gz expected"):
        check_writable(tmp_path / "step.txt")
    (tmp_path / "a.json").mkdir()
    with pytest.raises(IsADirectoryError):
        check_writable(tmp_path / "a.json")


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"traceEvents": []}', b"\x1f\x8b"])
def test_any_other_file_is_refused(tmp_path, content):
    for name in ("a.json", "a.json.gz"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match="a trace written by"):
            read_trace(tmp_path / name)


class LateProfiler(profile):
    """Writes what torch writes after months of uptime: more digits than a float has."""

    def __init__(self):
        pass

    def export_chrome_trace(self, path):
        slices = "".join(
            f',{{"ph":"X","pid":1,"tid":1,"name":"{i}","ts":8978567728729.{i:03},"dur":0.001}}'
            for i in range(1, 999)
        )
        root = f'{{"ph":"X","pid":1,"tid":1,"name":"{STEP_NAME}","ts":8978567728729.000,"dur":1.0}}'
        with open(path, "w") as file:
            file.write(f'{{"traceEvents":[{root}{slices}]}}')


def test_no_nanosecond_is_lost_however_late_the_clock(tmp_path):
    path = tmp_path / "late.json"
    trace_module.write_trace(LateProfiler(), [], path)
    slices = [event for event in events_of(path) if event["name"].isdigit()]
    assert [nanoseconds(event) for event in slices] == [(i, i + 1) for i in range(1, 999)]
