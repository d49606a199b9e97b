"""Encode a long text piece by piece: the tokens of the whole, in bounded memory.

Encoding takes some 360 bytes of memory for every byte of text while it runs, so a text of 60 MB
would need 20 GB at once.
"""

import re
from collections.abc import Iterator

import numpy as np

from mini_moe.text.tokenizer import Tokenizer

SIZE = 100_000  # characters of a piece
REACH = 200  # characters on each side in which a cut is tried out
MOST_TRIES = 100  # places; a tokenizer that allows a cut at none of them gets the whole rest
# Between a word and the blank after it: GPT-2's pattern, and so our own tokenizers, never put both
# into one word, whatever comes before or after.
GAP = re.compile(r"(?<=\S)(?=[ \r\n])")


def encode_text(tokenizer: Tokenizer, text: str, size: int = SIZE) -> np.ndarray:
    """The token ids of `tokenizer.encode(text)` as a compact array.

    1. cut where encoding both sides alone gives the tokens that they have together
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
        tokenizer.encode(text)  # says the same about the whole text, positions included
        raise
    return np.concatenate(parts)


def next_cut(tokenizer: Tokenizer, text: str, wanted: int) -> int:
    """The first place from `wanted` on where the text can be cut, or its end."""
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
    """Whether the text around a place gets the same tokens when it is cut there."""
    window, before = around(text, place), text[max(place - REACH, 0) : place]
    apart = [*tokenizer.encode(before), *tokenizer.encode(window[len(before) :])]
    return list(tokenizer.encode(window)) == apart


def is_spelled_out(tokenizer: Tokenizer, text: str) -> bool:
    """Whether every character has its own tokens, as with a character-level tokenizer."""
    ids = tokenizer.encode(text)
    one_each = len(ids) == len(text)
    return one_each and list(ids) == [
        one for character in text for one in tokenizer.encode(character)
    ]


def around(text: str, place: int) -> str:
    """The text within reach of a place."""
    return text[max(place - REACH, 0) : place + REACH]


def split_at_gaps(text: str, size: int = SIZE) -> Iterator[str]:
    """Pieces of at least `size` characters, cut between words, for training a tokenizer of ours."""
    start = 0
    while start < len(text):
        gap = GAP.search(text, start + size)
        stop = gap.start() if gap else len(text)
        yield text[start:stop]
        start = stop
