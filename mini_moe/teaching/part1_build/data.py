"""Exercises of 01_data: the split, byte-pair merges, stateless batches, bits per byte."""

from collections import Counter
from itertools import pairwise

from mini_moe.teaching.exercise import Mistake, exercise
from mini_moe.text import batches, corpus

split_of = exercise(
    corpus.split_of,
    difficulty=2,
    importance=5,
    minutes=8,
    hints=(
        "`hashlib.sha256(document_id.encode()).digest()` gives 32 bytes, the same everywhere.",
        "`int.from_bytes(digest[:8], 'big') / 2**64` is a number from 0 up to 1.",
        'Below `validation_fraction` the document is for "validation", else for "train".',
    ),
)


@split_of.probe("a hundred documents")
def _(student):
    ids = [f"stories/bridge/{n}" for n in range(100)]
    strange = {side for n in ids for side in [student(n, 0.05)]} - {"train", "validation"}
    if strange:
        raise Mistake(f'you answer {strange.pop()!r}; "train" or "validation" expected')
    held_out = {share: sum(student(n, share) == "validation" for n in ids) for share in (0.0, 1.0)}
    if held_out[0.0] or held_out[1.0] < 100:
        raise Mistake(
            f"at fraction 0 you hold out {held_out[0.0]} of 100, at fraction 1 {held_out[1.0]}; "
            "none and all expected"
        )
    for name in ids:
        if student(name, 0.3) != corpus.split_of(name, 0.3):
            raise Mistake(
                f"{name} belongs to {corpus.split_of(name, 0.3)} at fraction 0.3, you say "
                f"{student(name, 0.3)}; read the first 8 bytes of SHA-256 as a big-endian number"
            )


def most_frequent_pair(words: list[list[str]]) -> tuple[str, str]:
    """The two neighbouring symbols that occur most often; of equals, those that come first."""
    pairs = Counter(pair for word in words for pair in pairwise(word))
    return max(pairs, key=pairs.__getitem__)


pair = exercise(
    most_frequent_pair,
    difficulty=2,
    importance=4,
    minutes=6,
    hints=(
        "`zip(word, word[1:])` gives the neighbours of one word; never join two words.",
        "`collections.Counter` counts them, and remembers which pair it met first.",
        "`max(counts, key=counts.get)` is the first of the largest.",
    ),
)


@pair.probe("four words")
def _(student):
    found = student([list("low"), list("lower"), list("slow"), list("slower")])
    if not isinstance(found, tuple) or len(found) != 2:
        raise Mistake(f"your result is {found!r}; a tuple of two symbols expected")
    if found == ("o", "w"):
        raise Mistake("(o, w) is as frequent as (l, o), but (l, o) comes first")


pair.agrees("four words", lambda: ([list("low"), list("lower"), list("slow"), list("slower")],))
pair.agrees(
    "symbols of several letters",
    lambda: ([["s", "lo"], ["s", "lo", "w"], ["lo", "w"], ["lo", "w"]],),
)
pair.agrees("no pair across two words", lambda: ([list("ab"), list("ab"), list("bb"), ["b", "c"]],))
pair.agrees("pairs have an order", lambda: ([list("ab"), list("ba"), list("ba")],))
pair.agrees("a word with repetitions", lambda: ([list("xyzxyzxy"), list("zz"), list("zz")],))


def starts(student, *given: int, length: int = 4, n_tokens: int = 1000) -> list[int]:
    """The places a student draws, as numbers; `given` are batch, seed and step."""
    batch, seed, step = given
    return [int(place) for place in student(n_tokens, length, batch, seed, step)]


window_starts = exercise(
    batches.window_starts,
    difficulty=3,
    importance=5,
    minutes=8,
    hints=(
        "The last place where 4 of 10 tokens fit is 6, so there are n_tokens − length + 1 places.",
        "`np.random.default_rng([seed, step])` is a new generator that both numbers decide.",
        "`draw.integers(0, places, size=batch)` excludes the upper end.",
    ),
)


@window_starts.probe("rows of 4 from 10 tokens")
def _(student):
    found = starts(student, 2000, 0, 0, n_tokens=10)
    if len(found) != 2000:
        raise Mistake(f"you give {len(found)} places; batch=2000 expected")
    if min(found) < 0 or max(found) > 6:
        raise Mistake(f"a row begins at {max(found)}; 6 is the last place where 4 tokens fit")
    if missing := set(range(7)) - set(found):
        raise Mistake(f"no row ever begins at {min(missing)}, though 4 tokens fit there")
    rarest = min(found.count(place) for place in range(7))
    if rarest < 150:
        raise Mistake(f"one place came only {rarest} times in 2000; all seven should be alike")


@window_starts.probe("seed and step decide, nothing else")
def _(student):
    first = starts(student, 8, 0, 1)
    starts(student, 8, 5, 5)
    if starts(student, 8, 0, 1) != first:
        raise Mistake("the same seed and step gave other places the second time")
    if starts(student, 8, 0, 2) == first:
        raise Mistake("steps 1 and 2 give the same places")
    if starts(student, 8, 3, 1) == first:
        raise Mistake("seeds 0 and 3 give the same places")
    if starts(student, 8, 1, 0) == first:
        raise Mistake("seed 0 at step 1 gives what seed 1 gives at step 0; keep the two apart")


bits_per_byte = exercise(
    batches.bits_per_byte,
    difficulty=1,
    importance=4,
    minutes=4,
    hints=(
        "A bit is ln 2 = 0.693 nats, so divide by it to turn nats into bits.",
        "One token stands for several bytes, so the bits are shared by them.",
    ),
)


@bits_per_byte.probe("ln 256 nats a token, one byte a token: 8 bits")
def _(student):
    found = float(student(5.545177444479562, 1.0))
    if abs(found - 5.5452) < 1e-3:
        raise Mistake("your result 5.55 is still in nats; a bit is ln 2 of them")
    if abs(found - 8) > 1e-3:
        raise Mistake(f"your result is {found:.3g}; 8 expected")


@bits_per_byte.probe("the same with 4 bytes a token: 2 bits")
def _(student):
    found = float(student(5.545177444479562, 4.0))
    if abs(found - 2) > 1e-3:
        raise Mistake(f"your result is {found:.3g}; the bits of a token are shared by 4 bytes")


bits_per_byte.agrees("2 nats, 3.5 bytes", lambda: (2.0, 3.5))
