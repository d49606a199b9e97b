"""Turn tokens into text that is certain: whole characters, and no part of a stop string."""

import codecs
from collections.abc import Sequence

from mini_moe.arguments import items
from mini_moe.text import Tokenizer


class TextStream:
    """Turns tokens into text one by one and detects stop strings, even across token boundaries.

    A character's bytes, or a stop string, may be spread over several tokens; text that could still
    become part of either is held back until it is certain. Of several stop strings, the first to
    be completed counts, and of those completed at the same place, the longest. What `add` and
    `end` return adds up to `tokenizer.decode` of all tokens, cut before the stop string.
    """

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str] = ()) -> None:
        self.tokenizer, self.stops = tokenizer, stop_strings(stops)
        self.stopped = False
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""

    def add(self, token: int) -> str:
        """Add a token and return the text that is now certain; "" once `stopped`."""
        return self._release(self._decoder.decode(self.tokenizer.token_bytes([token])[0]))

    def end(self) -> str:
        """Return the text that was held back, now that no more tokens follow."""
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
    """Return the length of the longest suffix of `text` that is a proper prefix of `stop`."""
    most = min(len(text), len(stop) - 1)
    return next((n for n in range(most, 0, -1) if stop.startswith(text[-n:])), 0)


def stop_strings(stop: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return one, several or no stop strings as a tuple.

    Raises: ValueError for an empty one, or anything that is not a string.
    """
    if stop is None or isinstance(stop, str):
        stops = () if stop is None else (stop,)
    else:
        stops = tuple(items("stop", stop, "a string, several strings, or None"))
    for one in stops:
        if not isinstance(one, str) or not one:
            raise ValueError(f"stop: non-empty strings expected, got {one!r}")
    return stops
