"""Wrong answers to the exercises of 01_data."""

import hashlib
import math
from collections import Counter
from itertools import chain, pairwise

import numpy as np

from mini_moe.text.batches import bits_per_byte, window_starts
from mini_moe.text.corpus import split_of


def hashed(document_id, fraction, method="sha256", part=slice(0, 8), order="big"):
    """Return the correct answer with a different hash, different bytes or a different order."""
    digest = getattr(hashlib, method)(document_id.encode()).digest()[part]
    number = int.from_bytes(digest, order) / 256 ** len(digest)
    return "validation" if number < fraction else "train"


def drawn(key):
    """Return a sampler of positions whose generator is seeded by `key(seed, step)`."""

    def draw(n_tokens, length, batch, seed, step):
        return np.random.default_rng(key(seed, step)).integers(0, n_tokens - length + 1, batch)

    return draw


def shifted(first, end):
    """Return a sampler of positions from `first` to `end` past the last one."""

    def draw(n_tokens, length, batch, seed, step):
        places = n_tokens - length + 1
        return np.random.default_rng([seed, step]).integers(first, places + end, size=batch)

    return draw


STATE = np.random.default_rng(0)


WRONG = {
    "split_of": {
        "sides swapped": (
            lambda name, share: {"train": "validation", "validation": "train"}[
                split_of(name, share)
            ],
            "none and all expected",
        ),
        "true and false": (
            lambda name, share: split_of(name, share) == "validation",
            '"train" or "validation" expected',
        ),
        "always five percent": (
            lambda name, share: split_of(name, 0.05),
            "at fraction 1",
        ),
        "another hash": (
            lambda name, share: hashed(name, share, "md5"),
            "first 8 bytes of SHA-256",
        ),
        "the last bytes": (
            lambda name, share: hashed(name, share, part=slice(-8, None)),
            "first 8 bytes",
        ),
        "bytes in the other order": (
            lambda name, share: hashed(name, share, order="little"),
            "big-endian",
        ),
        "by length": (
            lambda name, share: "validation" if len(name) % 100 < 100 * share else "train",
            "belongs to",
        ),
    },
    "most_frequent_pair": {
        "the last of equals": (
            lambda words: max(
                reversed(list(counts := Counter(chain(*map(pairwise, words))))), key=counts.get
            ),
            "comes first",
        ),
        "with its count": (
            lambda words: Counter(chain(*map(pairwise, words))).most_common(1)[0],
            "your result",
        ),
        "joined": (
            lambda words: "".join(Counter(chain(*map(pairwise, words))).most_common(1)[0][0]),
            "a tuple of two symbols",
        ),
        "first pair of all": (lambda words: tuple(words[0][:2]), "symbols of several"),
        "across words": (
            lambda words: Counter(pairwise(chain(*words))).most_common(1)[0][0],
            "across two words",
        ),
        "without order": (
            lambda words: Counter(
                tuple(sorted(p)) for word in words for p in pairwise(word)
            ).most_common(1)[0][0],
            "result",
        ),
        "each word counts once": (
            lambda words: Counter(
                p for word in words for p in dict.fromkeys(pairwise(word))
            ).most_common(1)[0][0],
            "repetitions",
        ),
    },
    "window_starts": {
        "seed plus step": (drawn(lambda seed, step: seed + step), "keep the two apart"),
        "the step alone": (drawn(lambda seed, step: step), "seeds 0 and 3"),
        "the seed alone": (drawn(lambda seed, step: seed), "steps 1 and 2"),
        "remembers": (
            lambda n, length, batch, seed, step: STATE.integers(0, n - length + 1, size=batch),
            "the second time",
        ),
        "forgets the last place": (shifted(0, -1), "ever begins at 6"),
        "runs over the end": (shifted(0, 1), "last place where 4"),
        "forgets the first place": (shifted(1, 0), "ever begins at 0"),
        "one place": (
            lambda *given: window_starts(*given)[:1],
            "batch=2000",
        ),
        "in order": (
            lambda n, length, batch, seed, step: np.minimum(
                np.arange(batch) + seed + step, n - length
            ),
            "one place came only",
        ),
    },
    "bits_per_byte": {
        "stays in nats": (lambda loss, width: loss / width, "still in nats"),
        "multiplies by ln 2": (lambda loss, width: loss * math.log(2) / width, "8 expected"),
        "per token": (lambda loss, width: loss / math.log(2), "shared by 4"),
        "bytes above": (lambda loss, width: loss / math.log(2) * width, "shared by 4"),
        "base ten": (lambda loss, width: loss / math.log(10) / width, "8 expected"),
        "rounds down": (lambda loss, width: bits_per_byte(loss, width) // 1, "2 nats"),
    },
}
