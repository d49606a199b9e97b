"""Exercises of 13_profile about time: read a trace, Amdahl's law, find the bound."""

from collections.abc import Sequence

from mini_moe.teaching.exercise import Mistake, exercise


def own_microseconds(spans: Sequence[tuple[str, int, int]]) -> dict[str, int]:
    """Microseconds in which each name was the innermost; spans are (name, begin, end) by begin.

    Spans lie inside one another or apart, as ranges of a program do. A name may come several times.
    """
    own: dict[str, int] = {}
    open_now: list[tuple[str, int]] = []
    for name, begin, end in spans:
        while open_now and open_now[-1][1] <= begin:
            open_now.pop()
        own[name] = own.get(name, 0) + end - begin
        if open_now:
            own[open_now[-1][0]] -= end - begin
        open_now.append((name, end))
    return own


reading = exercise(
    own_microseconds,
    difficulty=3,
    importance=4,
    minutes=12,
    hints=(
        "A span's own time is its length minus the lengths of the spans directly inside it.",
        "Keep a list of spans that are still open; drop those from its end that ended before this "
        "one began. What is last in the list then is the parent.",
        "Add end − begin to own[name], and take the same off own[parent].",
    ),
)
TRACE = [
    ("step", 0, 100),
    ("block", 5, 60),
    ("attention", 10, 30),
    ("norm", 12, 15),
    ("experts", 30, 55),
    ("block", 60, 90),
    ("attention", 65, 80),
]


@reading.probe("seven spans of a step")
def _(student):
    wanted, found = own_microseconds(list(TRACE)), student(list(TRACE))
    if not isinstance(found, dict):
        raise Mistake(f"a dict of names expected, got {type(found).__name__}")
    whole = {"step": 100, "block": 85, "attention": 35, "norm": 3, "experts": 25}
    if found == whole:
        raise Mistake(
            f"your times add up to {sum(whole.values())} of 100 µs: what lies inside a span is "
            "counted for both"
        )
    if found.get("attention") in (12, 15, 17, 20) and found.get("experts") == 25:
        raise Mistake(
            f"attention has {found['attention']} µs; it comes twice, 17 µs and 15 µs of its own"
        )
    if found.get("step") in (-48, -38, -8, 12):
        raise Mistake(
            f"the step is left with {found['step']} µs: only the spans directly inside are taken "
            "off, and the blocks hold the rest already"
        )
    if sum(found.values()) != 100:
        raise Mistake(f"your times add up to {sum(found.values())} µs; the step has 100")
    if found != wanted:
        name = next(name for name in wanted if found.get(name) != wanted[name])
        raise Mistake(f"{name} has {found.get(name)} µs; {wanted[name]} µs expected")


reading.agrees("spans that touch", lambda: ([("a", 0, 10), ("b", 0, 5), ("c", 5, 10)],))
reading.agrees("two steps in a row", lambda: ([("step", 0, 4), ("a", 1, 2), ("step", 4, 9)],))
reading.agrees("nothing recorded", lambda: ([],))


def amdahl(share: int | float, factor: int | float) -> float:
    """How many times as fast the whole gets when a part with this share gets factor times as fast.

    1 / (1 − share + share / factor).
    Source: G. M. Amdahl, AFIPS Conference Proceedings 30 (1967), pages 483–485.
    """
    return 1 / (1 - share + share / factor)


law = exercise(
    amdahl,
    difficulty=2,
    importance=5,
    minutes=5,
    hints=(
        "Let the whole take 1. How long is the part that stays as it is?",
        "The other part takes share / factor. Add both: that is the new time.",
        "return 1 / (1 - share + share / factor)",
    ),
)


@law.probe("a quarter of the time, twice as fast")
def _(student):
    found = student(0.25, 2.0)
    slips = {
        1.6: "0.25 and 0.75 are exchanged: the share is what gets faster",
        1.25: "gains don't average; times add up, and speed is one over the new time",
        4 / 3: "that is what a part that vanishes would give; this one still takes half its time",
        2.0: "the whole would have to be that part",
        0.875: "that is the new time; how many times as fast is the whole?",
    }
    for slip, words in slips.items():
        if abs(found - slip) < 1e-6:
            raise Mistake(f"{found:.4g}: {words}")


law.agrees("half the time, four times as fast", lambda: (0.5, 4.0))
law.agrees("all of it", lambda: (1.0, 3.0))
law.agrees("a part that gets slower", lambda: (0.3, 0.5))


def nearest_limit(
    flops: int | float,
    n_bytes: int | float,
    calls: int | float,
    peak: int | float,
    bandwidth: int | float,
    call_seconds: int | float,
) -> str:
    """"compute", "bytes" or "calls": the limit that asks for the most seconds.

    Source: the first two are the roofline of Williams, Waterman and Patterson, Communications of
    the ACM 52(4), 2009.
    """  # fmt: skip
    seconds = {
        "compute": flops / peak,
        "bytes": n_bytes / bandwidth,
        "calls": calls * call_seconds,
    }
    return max(seconds, key=seconds.__getitem__)


bound = exercise(
    nearest_limit,
    difficulty=2,
    importance=4,
    minutes=6,
    hints=(
        "Turn all three into seconds: FLOPs over FLOP/s, bytes over bytes a second, and …",
        "… calls times the seconds of a call. The slowest of the three holds the work back.",
        "`max(seconds, key=seconds.get)` of a dict gives the name of the largest.",
    ),
)
MACHINE = (1e12, 1e11, 1e-6)  # FLOP/s, bytes a second, seconds a call


@bound.probe("work whose limit is plain")
def _(student):
    cases = {
        "compute": (5e9, 1e8, 100.0, "5 GFLOP at 1 TFLOP/s are 5 ms, 100 MB at 100 GB/s 1 ms"),
        "bytes": (1e8, 4e8, 100.0, "400 MB at 100 GB/s are 4 ms, 0.1 GFLOP at 1 TFLOP/s 0.1 ms"),
        "calls": (1e6, 1e5, 900.0, "900 calls of 1 µs are 0.9 ms, all else is below 0.01 ms"),
    }
    for wanted, (flops, n_bytes, calls, why) in cases.items():
        found = student(flops, n_bytes, calls, *MACHINE)
        if not isinstance(found, str):
            raise Mistake(f"a name expected, 'compute', 'bytes' or 'calls'; got {found!r}")
        if found != wanted:
            raise Mistake(f"{found!r} where {wanted!r} asks for most: {why}")


bound.agrees("intensity above the ridge, yet few FLOPs", lambda: (2e6, 1e5, 50.0, *MACHINE))
bound.agrees("many bytes and many FLOPs", lambda: (3e10, 2.9e9, 10.0, *MACHINE))
