"""A profiled step: its parts, how much of the clock they cover, what the recording cost."""

from dataclasses import dataclass
from typing import NamedTuple

from mini_moe.profiling.timing.recording import KINDS
from mini_moe.profiling.timing.segments import PHASES, Segment


class Row(NamedTuple):
    """All the time of one kind of part in one phase of a step."""

    kind: str
    phase: str
    seconds: float
    calls: int  # operations of PyTorch that called no other


@dataclass(frozen=True, kw_only=True)
class StepProfile:
    """One step, the fastest of several, cut into the parts that were at work.

    On the CPU every moment of the thread that runs the step belongs to one part. On a GPU the parts
    are those of its kernels, and what is left of the wall clock is "waiting".
    """

    name: str
    device: str
    threads: int
    bf16: bool
    tokens: int  # a step
    seconds: float  # by the wall clock, while it was recorded
    plain_seconds: float  # the same step without the recording, also the fastest
    segments: list[Segment]
    alone: dict[str, float]  # seconds of "sort" and "combine" inside compiled experts, each pass

    @property
    def rows(self) -> list[Row]:
        """Seconds by kind and phase, in the order in which they come in a model."""
        sums: dict[tuple[str, str], tuple[float, int]] = {}
        for segment in self.segments:
            key = segment.part.kind, segment.phase
            seconds, calls = sums.get(key, (0.0, 0))
            spent = segment.seconds if self.device == "cpu" else segment.device_seconds
            sums[key] = seconds + spent, calls + segment.calls
        if self.device != "cpu":
            busy = sum(seconds for seconds, _ in sums.values())
            sums["waiting", "other"] = max(self.seconds - busy, 0.0), 0
        for (kind, phase), (whole, calls) in list(sums.items()):
            if kind == "experts" and sum(self.alone.values()) < whole:
                for inner, seconds in self.alone.items():
                    before, others = sums.get((inner, phase), (0.0, 0))
                    sums[inner, phase] = before + seconds, others
                sums[kind, phase] = whole - sum(self.alone.values()), calls
        order = [(kind, phase) for kind in KINDS for phase in PHASES if (kind, phase) in sums]
        return [Row(*key, *sums[key]) for key in order]

    @property
    def coverage(self) -> float:
        """Share of the wall clock that a named part accounts for: all rows but "other"."""
        return sum(row.seconds for row in self.rows if row.kind != "other") / self.seconds

    @property
    def overhead(self) -> float:
        """How much longer a step takes while it is recorded, as a share of the plain step.

        The fastest of each are compared: what else the machine does can only slow a step down.
        """
        return self.seconds / self.plain_seconds - 1

    @property
    def tokens_per_second(self) -> float:
        """Of the plain step."""
        return self.tokens / self.plain_seconds

    def by(self, field: str = "kind") -> dict[str, float]:
        """Seconds by "kind" or by "phase", the largest first.

        Raises: ValueError for another field.
        """
        if field not in ("kind", "phase"):
            raise ValueError(f"field={field!r}: 'kind' or 'phase' expected")
        sums: dict[str, float] = {}
        for row in self.rows:
            sums[getattr(row, field)] = sums.get(getattr(row, field), 0.0) + row.seconds
        return dict(sorted(sums.items(), key=lambda item: -item[1]))

    def __str__(self) -> str:
        lines = [
            f"{self.name}: {self.tokens:,} tokens in {1e3 * self.plain_seconds:.1f} ms, "
            f"{1e3 * self.seconds:.1f} ms while recorded ({self.overhead:+.0%}); "
            f"{self.coverage:.1%} of that has a name"
        ]
        for kind, seconds in self.by("kind").items():
            lines.append(f"{kind:10} {1e3 * seconds:8.2f} ms {seconds / self.seconds:6.1%}")
        return "\n".join(lines)
