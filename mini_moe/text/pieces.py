"""Encode a long text piece by piece: same tokens as the whole, in bounded memory.

Encoding needs about 360 bytes of memory per byte of text, so a text of 60 MB would need 20 GB if
encoded at once.
"""

import re
from collections.abc import Iterator

import numpy as np

from mini_moe.text.tokenizer import Tokenizer

SIZE = 100_000  # characters per piece
REACH = 200  # characters on each side that are encoded to test a cut
MOST_TRIES = 100  # places; if none of them allows a cut, the whole rest is one piece
# Between a word and the blank after it: GPT-2's pattern, and so this project's tokenizers, never
# join the two, whatever the context.
GAP = re.compile(r"(?<=\S)(?=[ \r\n])")


def encode_text(tokenizer: Tokenizer, text: str, size: int = SIZE) -> np.ndarray:
    """Return the token ids of `tokenizer.encode(text)` as a compact array.

    1. cut where encoding both sides separately gives the same tokens as encoding them together
    2. encode piece by piece

    Raises:
        ValueError: what `tokenizer.encode` raises.
    """
    dtype = np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32
    parts, start = [np.zeros(0, dtype)], 0
    try:
        while start < len(text):
            stop = next_cut(tokenizer, text, start + size)
            parts.append(np.array(tokenizer.encode(text[start:stop]), dtype))
            start = stop
    except ValueError:
        # only a piece may be at fault; otherwise this error has positions in the whole text
        return np.array(tokenizer.encode(text), dtype)
    return np.concatenate(parts)


def next_cut(tokenizer: Tokenizer, text: str, wanted: int) -> int:
    """Return the first place from `wanted` on where the text can be cut, or its end."""
    if wanted >= len(text):
        return len(text)
    if is_spelled_out(tokenizer, around(text, wanted)) and may_cut(tokenizer, text, wanted):
        return wanted
    for tries, gap in enumerate(GAP.finditer(text, wanted)):
        if tries == MOST_TRIES:
            break
        if may_cut(tokenizer, text, gap.start()):
            return gap.start()
    return len(text)


def may_cut(tokenizer: Tokenizer, text: str, place: int) -> bool:
    """Return whether cutting at a place leaves the tokens around it unchanged."""
    window, before = around(text, place), text[max(place - REACH, 0) : place]
    apart = [*tokenizer.encode(before), *tokenizer.encode(window[len(before) :])]
    return list(tokenizer.encode(window)) == apart


def is_spelled_out(tokenizer: Tokenizer, text: str) -> bool:
    """Return whether every character is encoded on its own, as with a character-level tokenizer."""
    ids = tokenizer.encode(text)
    one_each = len(ids) == len(text)
    return one_each and list(ids) == [
        one for character in text for one in tokenizer.encode(character)
    ]


def around(text: str, place: int) -> str:
    """Return the text within reach of a place."""
    return text[max(place - REACH, 0) : place + REACH]


def split_at_gaps(text: str, size: int = SIZE) -> Iterator[str]:
    """Yield pieces of at least `size` characters, cut between words, for training a tokenizer."""
    start = 0
    while start < len(text):
        gap = GAP.search(text, start + size)
        stop = gap.start() if gap else len(text)
        yield text[start:stop]
        start = stop
