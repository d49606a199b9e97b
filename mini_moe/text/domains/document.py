"""A document is the unit of the corpus: one text, one domain, one side of the split."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

DOMAINS = ("code", "docs", "stories_en", "stories_de", "math", "tables")


@dataclass(frozen=True)
class Document:
    """One text with its domain; documents sharing an `id` are always on the same side."""

    id: str  # e.g. "code/json/decoder" or "stories/lost-toy/17" (the same in both languages)
    domain: str  # one of DOMAINS
    text: str  # ends without a newline; the end-of-text token follows it in the corpus

    @property
    def n_bytes(self) -> int:
        """Size in UTF-8 bytes."""
        return len(self.text.encode())


def random_for(*key: object) -> random.Random:
    """Return a random generator that depends only on the key (hashed with SHA-512, not `hash()`).

    Every document draws from its own generator, so adding one changes none of the others.
    """
    return random.Random("/".join(map(str, key)))


def fill(make: Callable[[int], list[Document]], n_bytes: int) -> Iterator[Document]:
    """Collect make(0), make(1), … until the first document of each call adds up to `n_bytes`."""
    used, n = 0, 0
    while used < n_bytes:
        documents = make(n)
        used += documents[0].n_bytes
        n += 1
        yield from documents
