"""Split a profile into segments, so that exactly one part runs at each moment of a step."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from mini_moe.profiling.timing.recording import OTHER, STEP, Part, Recording

PHASES = ("forward", "backward", "optimizer", "other")
STEP_NAME = f"{STEP} (other)"
NODE = "autograd::engine::evaluate_function: "
BACKWARD = "backward"
KERNEL_KINDS = {  # substrings of the names of the CUDA kernels in kernels/*.cu
    "count_rows": "sort",
    "scan_counts": "sort",
    "place_rows": "sort",
    "combine": "combine",
}


class Segment(NamedTuple):
    """A stretch of time in which one part was running; segments of a step don't overlap."""

    part: Part
    phase: str
    start: float  # seconds since the beginning of the step
    seconds: float
    calls: int  # PyTorch operations that ended here and called no other
    device_seconds: float  # of the kernels launched here; 0 on the CPU


def segments_of(events: Sequence[Any], record: Recording) -> list[Segment]:
    """Split a step at every change of the innermost part, and return segments in order of time.

    `events` come from a torch profiler. Each moment of the thread that ran the step belongs to
    exactly one segment, so the segments add up to the step.
    """
    root = next(e for e in events if e.name == STEP_NAME)
    zero = root.time_range.start
    threads: dict[int, list[Any]] = {}
    for event in events:
        if event.device_type.name == "CPU" and not event.is_async:
            threads.setdefault(event.thread, []).append(event)
    segments = []
    for thread, inside in threads.items():
        cutter = _Cutter(record, zero)
        inside.sort(key=lambda e: (e.time_range.start, -e.time_range.end))
        for event in _with_backward(inside) if thread == root.thread else inside:
            cutter.add(event)
        segments += cutter.close()
    return sorted(segments, key=lambda segment: segment.start)


class _Stretch(NamedTuple):
    start: float
    end: float


class _Between(NamedTuple):
    """An added event for the whole backward pass, including the engine's work between nodes."""

    name: str
    time_range: _Stretch
    sequence_nr: int = -1
    kernels: Sequence[Any] = ()


def _with_backward(events: list[Any]) -> list[Any]:
    """Add an event around all nodes of the backward pass to the events of a thread."""
    nodes = [n for n, event in enumerate(events) if event.name.startswith(NODE)]
    if not nodes:
        return events
    end = max(events[n].time_range.end for n in nodes)
    whole = _Between(BACKWARD, _Stretch(events[nodes[0]].time_range.start, end))
    return [*events[: nodes[0]], whole, *events[nodes[0] :]]


class _Open:
    """An event that has begun but not ended."""

    def __init__(self, end: float, part: Part, phase: str, is_range: bool) -> None:
        self.end, self.part, self.phase, self.is_range = end, part, phase, is_range
        self.has_children = False


class _Cutter:
    """Goes through one thread's events in order of time and ends a segment at every change."""

    def __init__(self, record: Recording, zero: float) -> None:
        self.record, self.zero = record, zero
        self.stack: list[_Open] = []
        self.segments: list[Segment] = []
        self.since, self.calls, self.device = 0.0, 0, 0.0
        self.last = OTHER  # part of the last node of the graph

    def add(self, event: Any) -> None:
        start = event.time_range.start
        self.end_before(start)
        entered = self.meaning(event)
        outer = self.stack[-1] if self.stack else None
        if entered is None and outer is None:
            return
        end = event.time_range.end if outer is None else min(event.time_range.end, outer.end)
        if outer is not None:
            outer.has_children = True
        if entered is not None:
            self.cut(start)
            self.stack.append(_Open(end, *entered, True))
        else:
            self.stack.append(_Open(end, outer.part, outer.phase, False))
        for kernel in event.kernels:
            self.add_kernel(kernel)

    def add_kernel(self, kernel: Any) -> None:
        """Assign a kernel to the part that launched it; inside compiled experts, by its name."""
        here = self.stack[-1]
        inner = next((kind for word, kind in KERNEL_KINDS.items() if word in kernel.name), None)
        if inner is None or here.part.kind != "experts":
            self.device += kernel.duration
            return
        part, start = Part(inner, here.part.path), (self.since - self.zero) / 1e6
        self.segments.append(Segment(part, here.phase, start, 0.0, 0, kernel.duration / 1e6))

    def meaning(self, event: Any) -> tuple[Part, str] | None:
        """Return the part and phase that an event begins, or None for an ordinary operation."""
        outer = self.stack[-1].phase if self.stack else "other"
        if event.name.startswith(NODE):
            if event.sequence_nr >= 0:  # accumulating gradients belongs to the previous node
                self.last = self.record.maker(event.sequence_nr)
            return self.last, "backward"
        if event.name in (STEP_NAME, BACKWARD):
            return OTHER, event.name if event.name == BACKWARD else "other"
        if event.name.startswith(("Optimizer.step#", "Optimizer.zero_grad#")):
            return Part("optimizer", event.name.partition("#")[2]), "optimizer"
        part = self.record.parts.get(event.name)
        if part is None or outer == "optimizer":
            return None
        if outer == "backward":
            return part, "backward"
        phases = {"batch": "other", "clip": "optimizer"}
        return part, phases.get(part.kind, "forward")

    def end_before(self, time: float) -> None:
        while self.stack and self.stack[-1].end <= time:
            ended = self.stack[-1]
            if ended.is_range:
                self.cut(ended.end)
            elif not ended.has_children:
                self.calls += 1
            self.stack.pop()

    def cut(self, time: float) -> None:
        """End the current segment, which belongs to the innermost range."""
        if self.stack and time > self.since:
            here = self.stack[-1]
            start, length = (self.since - self.zero) / 1e6, (time - self.since) / 1e6
            segment = Segment(here.part, here.phase, start, length, self.calls, self.device / 1e6)
            self.segments.append(segment)
        if time > self.since or not self.stack:
            self.since, self.calls, self.device = time, 0, 0.0

    def close(self) -> list[Segment]:
        self.end_before(float("inf"))
        return self.segments
