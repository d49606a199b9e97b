"""Which limit holds back each part of a step: arithmetic, bytes, or the number of calls."""

from dataclasses import dataclass

from mini_moe.config import ModelConfig
from mini_moe.profiling.counting import Counts, muon_flops
from mini_moe.profiling.limits import Limits, machine_limits
from mini_moe.profiling.timing.result import StepProfile

# kinds in the profile ← kinds in the count, where sorting and combining belong to the experts
COUNTED = {
    "embedding": ("embedding",),
    "norms": ("norms",),
    "attention": ("attention projections", "attention core"),
    "router": ("router",),
    "experts": ("routed experts",),
    "shared": ("shared experts",),
    "dense FFN": ("dense feed-forward",),
    "MTP": ("projection",),
    "head": ("head",),
}
WITH_EXPERTS = ("sort", "combine")
PASSES = 3  # a training step has three products per forward product: forward and two backward
MUON_NUMBERS, ADAMW_NUMBERS = 5, 7  # numbers per parameter that an update reads or writes
LOSS_NUMBERS = 4  # per logit: read, probability written, read, gradient written
FP32 = 4


@dataclass(frozen=True, kw_only=True)
class Point:
    """One kind of part: how much work it had, how long it took, and what each limit allows."""

    kind: str
    flops: int  # of matrix products, in one step
    n_bytes: int  # minimum traffic
    calls: int
    seconds: float
    limits: dict[str, float]  # least seconds allowed by "compute", "bytes" and "calls"

    @property
    def bound(self) -> str:
        """The limit that takes the most time."""
        return max(self.limits, key=self.limits.__getitem__)

    @property
    def reached(self) -> float:
        """Share of the time that this limit explains; 1 is as fast as it allows."""
        return self.limits[self.bound] / self.seconds if self.seconds else 0.0

    @property
    def flops_per_second(self) -> float:
        """FLOP/s achieved, counting matrix products only."""
        return self.flops / self.seconds if self.seconds else 0.0

    @property
    def bytes_per_second(self) -> float:
        """Bytes per second achieved, counting minimum traffic; more may actually be moved."""
        return self.n_bytes / self.seconds if self.seconds else 0.0

    @property
    def intensity(self) -> float:
        """FLOPs per byte of minimum traffic."""
        return self.flops / self.n_bytes if self.n_bytes else 0.0


@dataclass(frozen=True, kw_only=True)
class Roofline:
    """Every part of a step as a point under this machine's roofs."""

    points: tuple[Point, ...]
    limits: Limits
    dtype: str  # of most products
    flops: int  # of the model in one step, without the optimizer
    seconds: float  # of the step without recording

    @property
    def utilisation(self) -> float:
        """Model FLOPs utilisation: the model's FLOPs over those possible at peak in that time.

        Source: PaLM, arXiv 2204.02311 §4.1.
        """
        return self.flops / self.seconds / self.limits.flops[self.dtype]

    def __getitem__(self, kind: str) -> Point:
        """Return the point of one kind, as in roofline["experts"]."""
        for point in self.points:
            if point.kind == kind:
                return point
        raise ValueError(f"kind: one of {[p.kind for p in self.points]} expected, got {kind!r}")

    def __str__(self) -> str:
        lines = [f"{'':10}   GFLOP/s    GB/s  FLOPs/byte  bound by  reached"]
        for p in self.points:
            lines.append(
                f"{p.kind:10}{p.flops_per_second / 1e9:10.1f}{p.bytes_per_second / 1e9:8.1f}"
                f"{p.intensity:12.1f}  {p.bound:8}{p.reached:8.0%}"
            )
        return "\n".join([*lines, f"model FLOPs utilisation {self.utilisation:.0%} ({self.dtype})"])


def roofline(
    profile: StepProfile,
    counts: Counts,
    limits: Limits | None = None,
    *,
    optimizer: str = "muon",
) -> Roofline:
    """Combine counted work with measured time, part by part.

    FLOPs and bytes are those of `count` on the same batch. A training step is taken to move the
    bytes of three forward passes: it has three products per forward product, each with three
    operands of the same sizes. The optimizer moves every parameter, gradient and moment once; Muon
    also multiplies matrices.

    Raises: ValueError if the count is for another number of tokens, or the optimizer is unknown.
    """
    if counts.work.tokens != profile.tokens:
        raise ValueError(
            f"counts: {profile.tokens} tokens expected, as in the profile, "
            f"got batch · seq = {counts.work.tokens}"
        )
    if optimizer not in ("muon", "adamw"):
        raise ValueError(f"optimizer={optimizer!r}: 'muon' or 'adamw' expected")
    limits = machine_limits(profile.device) if limits is None else limits
    work = counted_work(profile, counts, optimizer)
    dtype = "bfloat16" if profile.bf16 else "float32"
    spent, calls = spent_by(profile)
    points = []
    for kind, (flops, n_bytes) in work.items():
        if spent.get(kind):
            own = "float32" if kind == "router" else dtype
            least = limits.seconds(flops, n_bytes, calls[kind], own)
            points.append(
                Point(kind=kind, flops=flops, n_bytes=n_bytes, calls=calls[kind],
                      seconds=spent[kind], limits=least)
            )  # fmt: skip
    total = counts.total
    flops = total.flops_training if trains(profile) else total.flops_forward
    return Roofline(
        points=tuple(points), limits=limits, dtype=dtype, flops=flops, seconds=profile.plain_seconds
    )


def trains(profile: StepProfile) -> bool:
    """Whether the profile includes a backward pass."""
    return any(row.phase == "backward" and row.seconds for row in profile.rows)


def counted_work(
    profile: StepProfile, counts: Counts, optimizer: str
) -> dict[str, tuple[int, int]]:
    """Return FLOPs and bytes of a step by kind, without kinds that multiply and move little."""
    training = trains(profile)
    passes = PASSES if training else 1
    work = {}
    for kind, names in COUNTED.items():
        rows = [row for row in counts.modules if row.kind in names]
        flops = sum(row.flops_training if training else row.flops_forward for row in rows)
        if n_bytes := passes * sum(row.bytes_forward for row in rows):
            work[kind] = flops, n_bytes
    if training:
        config = counts.config
        logits = counts.work.tokens * config.vocab_size * (1 + config.n_mtp_layers)
        work["loss"] = 0, LOSS_NUMBERS * logits * FP32
        work["optimizer"] = optimizer_work(config, counts.total.parameters, optimizer)
    return work


def optimizer_work(config: ModelConfig, parameters: int, optimizer: str) -> tuple[int, int]:
    """Return FLOPs of the products, and bytes of parameters, gradients and moments, in fp32."""
    if optimizer == "adamw":
        return 0, ADAMW_NUMBERS * parameters * FP32
    return muon_flops(config), MUON_NUMBERS * parameters * FP32


def spent_by(profile: StepProfile) -> tuple[dict[str, float], dict[str, int]]:
    """Return seconds and calls by kind, with sorting and combining included in the experts."""
    seconds: dict[str, float] = {}
    calls: dict[str, int] = {}
    for row in profile.rows:
        kind = "experts" if row.kind in WITH_EXPERTS else row.kind
        seconds[kind] = seconds.get(kind, 0.0) + row.seconds
        calls[kind] = calls.get(kind, 0) + row.calls
    return seconds, calls
