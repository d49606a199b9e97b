"""Tokens in, text out, as far as it is certain: whole characters, and no piece of a stop string."""

import codecs
from collections.abc import Sequence

from mini_moe.arguments import items
from mini_moe.text import Tokenizer


class TextStream:
    """Turns tokens into text one by one and notices stop strings, wherever tokens divide them.

    A character's bytes may be spread over tokens, and so may a stop string; what could still become
    one of them is held back until it is certain. Of several stop strings, the one that is complete
    first counts, the longest of those. Joined, what `add` and `end` return is `tokenizer.decode` of
    all tokens, cut before the stop string.
    """

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str] = ()) -> None:
        self.tokenizer, self.stops = tokenizer, stop_strings(stops)
        self.stopped = False
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""

    def add(self, token: int) -> str:
        """The text that is certain now; once `stopped`, there is no more."""
        return self._release(self._decoder.decode(self.tokenizer.token_bytes([token])[0]))

    def end(self) -> str:
        """What was held back, when no token follows."""
        rest = self._release(self._decoder.decode(b"", final=True))
        if not self.stopped:
            rest, self._held = rest + self._held, ""
        return rest

    def _release(self, text: str) -> str:
        if self.stopped:
            return ""
        self._held += text
        found = [(self._held.find(stop), stop) for stop in self.stops]
        complete = [(start + len(stop), start) for start, stop in found if start >= 0]
        if complete:
            self.stopped = True
            certain = self._held[: min(complete)[1]]
            self._held = ""
            return certain
        keep = max((begun(self._held, stop) for stop in self.stops), default=0)
        certain = self._held[: len(self._held) - keep]
        self._held = self._held[len(certain) :]
        return certain


def begun(text: str, stop: str) -> int:
    """Length of the longest end of `text` that `stop` begins with."""
    most = min(len(text), len(stop) - 1)
    return next((n for n in range(most, 0, -1) if stop.startswith(text[-n:])), 0)


def stop_strings(stop: str | Sequence[str] | None) -> tuple[str, ...]:
    """One, several or no stop strings as a tuple.

    Raises: ValueError for an empty one, or what is no text.
    """
    if stop is None or isinstance(stop, str):
        stops = () if stop is None else (stop,)
    else:
        stops = tuple(items("stop", stop, "a text, several texts, or None"))
    for one in stops:
        if not isinstance(one, str) or not one:
            raise ValueError(f"stop: strings that are not empty expected, got {one!r}")
    return stops
