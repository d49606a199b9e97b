"""A profiled step: its parts, how much of the time they cover, and what recording cost."""

from dataclasses import dataclass
from typing import NamedTuple

from mini_moe.profiling.timing.recording import KINDS
from mini_moe.profiling.timing.segments import PHASES, Segment


class Row(NamedTuple):
    """The total time of one kind of part in one phase of a step."""

    kind: str
    phase: str
    seconds: float
    calls: int  # PyTorch operations that called no other


@dataclass(frozen=True, kw_only=True)
class StepProfile:
    """One step, the fastest of several, split into the parts that were running.

    On the CPU every moment of the thread that runs the step belongs to one part. On a GPU a part's
    time is that of its kernels, and the rest of the wall time is "waiting".
    """

    name: str
    device: str
    threads: int
    bf16: bool
    tokens: int  # per step
    seconds: float  # wall time of the fastest recorded step
    plain_seconds: float  # wall time of the fastest step without recording
    segments: list[Segment]
    alone: dict[str, float]  # seconds of "sort" and "combine" inside compiled experts, per pass

    @property
    def rows(self) -> list[Row]:
        """Seconds by kind and phase, in model order."""
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
        """Share of the wall time in named parts, that is, in anything but "other"."""
        return sum(row.seconds for row in self.rows if row.kind != "other") / self.seconds

    @property
    def overhead(self) -> float:
        """How much longer a recorded step takes, as a share of the plain step.

        The fastest of each are compared, since other load on the machine can only slow steps down.
        """
        return self.seconds / self.plain_seconds - 1

    @property
    def tokens_per_second(self) -> float:
        """Tokens per second of the plain step."""
        return self.tokens / self.plain_seconds

    def by(self, field: str = "kind") -> dict[str, float]:
        """Return seconds by "kind" or by "phase", largest first.

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
