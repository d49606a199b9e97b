"""Needles in a haystack: a fact hidden in real text, a question at the end, an answer to check.

The haystack is the corpus itself. A test takes its names, values and haystack from held-out data
that training never draws from.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mini_moe.text.corpus import SPLITS, Corpus, split_of
from mini_moe.text.tokenizer import END_OF_TEXT_ID

Kind = Literal["passkey", "fact"]
WHAT = {"passkey": "pass key", "fact": "favourite word"}
DIGITS = 5  # of a pass key
HELD_OUT = 0.2  # share of words and keys reserved for tests
LEAST_WORDS = 20  # on each side, for the task to be meaningful
SAMPLE = 1_000_000  # tokens used to tell whole words from beginnings of words


@dataclass(frozen=True)
class NeedleExample:
    """A text that ends in a question about something it says."""

    tokens: Int[Tensor, "prompt"]  # haystack, needles and question
    answer: list[int]  # expected continuation
    depth: float  # share of the haystack before the needle
    needle: str  # the sentence that answers the question
    question: str
    distractors: tuple[str, ...]  # the same sentence about other names
    text: str  # all of `tokens`

    @property
    def length(self) -> int:
        """Number of tokens of text and answer together."""
        return len(self.tokens) + len(self.answer)


class NeedleRow(NamedTuple):
    """A training text with several questions and their answers at its end."""

    tokens: Int[Tensor, "length"]
    answers: Bool[Tensor, "length"]  # tokens that only a needle reveals


class Fact(NamedTuple):
    """What one needle says: the value that belongs to a name."""

    kind: Kind
    name: str
    value: str

    @property
    def needle(self) -> str:
        """The sentence, on a line of its own."""
        return f"The {WHAT[self.kind]} of {self.name} is {self.value}.\n"

    @property
    def question(self) -> str:
        """The question up to where the value begins."""
        what = f"{WHAT[self.kind]} of {self.name}"
        return f"What is the {what}?\nThe {what} is"


class Haystack:
    """Text of one side of a corpus, and the words and keys that may be hidden in it.

    Words come from the tokenizer's vocabulary. A word or pass key whose hash falls below HELD_OUT
    belongs to the validation side, otherwise to the training side. Tests use whole words only.

    Raises: ValueError for an unknown side, or a tokenizer without enough whole words.
    """

    def __init__(self, corpus: Corpus, split: str = "validation") -> None:
        if split not in SPLITS:
            raise ValueError(f"split: expected one of {SPLITS}, got {split!r}")
        self.corpus, self.split, self.tokenizer = corpus, split, corpus.tokenizer
        self.stream = getattr(corpus, split).tokens
        self.line_end = self.tokenizer.encode("\n")[0]
        pieces = self.tokenizer.token_bytes(range(self.tokenizer.vocab_size))
        self.ends_line = np.array([piece.endswith(b"\n") for piece in pieces])
        self.ends_line[END_OF_TEXT_ID] = True
        tokens, whole = words_of(corpus, pieces)
        pool = tokens if split == "train" else whole
        self.words = [word for word in pool if split_of(word, HELD_OUT) == split]
        self.names = [word for word in self.words if word.istitle() and word.lower() not in whole]
        if min(len(self.words), len(self.names)) < LEAST_WORDS:
            raise ValueError(
                f"tokenizer: at least {LEAST_WORDS} capitalised whole words per side expected, got "
                f"{len(self.names)} for {split}; needles need byte-level BPE and a large vocabulary"
            )

    @cached_property
    def starts(self) -> np.ndarray:
        """Positions in the stream at which a line begins."""
        return np.flatnonzero(self.ends_line[np.asarray(self.stream)]) + 1

    def cut(self, length: int, draw: np.random.Generator) -> np.ndarray:
        """Return `length` tokens from the beginning of a line, across documents if need be."""
        fitting = np.searchsorted(self.starts, len(self.stream) - length, side="right")
        if not fitting:
            raise ValueError(
                f"length: {length} tokens of text from the beginning of a line expected, "
                f"{self.split} has {len(self.stream)} tokens"
            )
        start = self.starts[draw.integers(fitting)]
        tokens = np.array(self.stream[start : start + length], dtype=np.int64)
        tokens[tokens == END_OF_TEXT_ID] = tokens[-1] = self.line_end
        return tokens

    def facts(self, kinds: list[Kind], draw: np.random.Generator) -> list[Fact]:
        """Draw one fact for each kind given, all about different names.

        Names are capitalised in tests; training uses any word, so that it learns about words in
        general.
        """
        pool = self.names if self.split == "validation" else self.words
        names = draw.choice(pool, size=len(kinds), replace=False)
        return [
            Fact(kind, str(name), self.value(kind, draw))
            for kind, name in zip(kinds, names, strict=True)
        ]

    def value(self, kind: Kind, draw: np.random.Generator) -> str:
        """Draw a pass key or a word of this side."""
        if kind == "fact":
            return str(draw.choice(self.words))
        while True:
            key = str(draw.integers(10 ** (DIGITS - 1), 10**DIGITS))
            if split_of(key, HELD_OUT) == self.split:
                return key

    def hide(
        self, hay: np.ndarray, needles: list[np.ndarray], depths: list[float]
    ) -> tuple[np.ndarray, list[int]]:
        """Insert each needle at the line end nearest to its depth.

        Returns the text and the position of each needle in the hay.
        """
        ends = np.concatenate(([0], np.flatnonzero(self.ends_line[hay]) + 1))
        places = [int(ends[np.abs(ends - depth * len(hay)).argmin()]) for depth in depths]
        parts, before = [], 0
        for place, needle in sorted(zip(places, needles, strict=True), key=lambda pair: pair[0]):
            parts += [hay[before:place], needle]
            before = place
        return np.concatenate([*parts, hay[before:]]), places

    def encode(self, text: str) -> np.ndarray:
        """Return the token ids of a text."""
        return np.array(self.tokenizer.encode(text), dtype=np.int64)

    def example(
        self, length: int, depth: float, seed: int, kind: str = "passkey", distractors: int = 0
    ) -> NeedleExample:
        """Make a test: see `needle_example`."""
        if kind not in WHAT:
            raise ValueError(f"kind: expected one of {tuple(WHAT)}, got {kind!r}")
        if not 0 <= depth <= 1:
            raise ValueError(f"depth={depth} must be in [0, 1]")
        if not 0 <= distractors < len(self.names):
            raise ValueError(f"distractors={distractors} must be in [0, {len(self.names)})")
        draw = np.random.default_rng([seed, length, round(1e6 * depth)])
        fact, *others = self.facts([kind] * (1 + distractors), draw)
        needles = [self.encode(one.needle) for one in (fact, *others)]
        question = self.encode(fact.question)
        answer = self.tokenizer.encode(f" {fact.value}")
        room = length - sum(map(len, needles)) - len(question) - len(answer)
        if room < 1:
            raise ValueError(
                f"length={length} must be at least {length - room + 1}: needles, question, answer"
            )
        hay = self.cut(room, draw)
        text, places = self.hide(hay, needles, [depth, *draw.random(distractors)])
        tokens = torch.from_numpy(np.concatenate((text, question)))
        return NeedleExample(
            tokens=tokens,
            answer=answer,
            depth=places[0] / room,
            needle=fact.needle.strip(),
            question=fact.question,
            distractors=tuple(one.needle.strip() for one in others),
            text=self.tokenizer.decode(tokens.tolist()),
        )

    def row(self, length: int, seed: list[int]) -> NeedleRow:
        """Make a text of `length` tokens with a pass key and a fact, both asked for at its end.

        Raises: ValueError if they don't fit.
        """
        draw = np.random.default_rng(seed)
        facts = self.facts(list(WHAT), draw)
        needles = [self.encode(fact.needle) for fact in facts]
        tail, answers = [], []
        for fact in draw.permutation(len(facts)):
            before = self.encode(facts[fact].question)
            value, after = self.encode(f" {facts[fact].value}"), self.encode(".\n")
            tail += [before, value, after]
            marks = (len(before), len(value), len(after))
            answers.append(np.repeat([False, True, False], marks))
        end = np.concatenate(tail)
        room = length - sum(map(len, needles)) - len(end)
        if room < 1:
            raise ValueError(f"length={length} must be at least {length - room + 1}")
        text, _ = self.hide(self.cut(room, draw), needles, list(draw.random(len(needles))))
        marked = np.concatenate([np.zeros(len(text), bool), *answers])
        return NeedleRow(torch.from_numpy(np.concatenate((text, end))), torch.from_numpy(marked))


def words_of(corpus: Corpus, pieces: list[bytes]) -> tuple[list[str], list[str]]:
    """Return all words that are one token with their leading space, and which of them are whole.

    All have at least two letters. A whole word has at least four, and fewer than half of its
    occurrences in the training text are followed by another letter.
    """
    texts = [piece.decode(errors="replace") for piece in pieces]
    stream = np.asarray(corpus.train.tokens[:SAMPLE])
    continues = np.array([text[:1].isalpha() for text in texts])[stream[1:]]
    seen = np.bincount(stream[:-1], minlength=len(pieces))
    continued = np.bincount(stream[:-1], weights=continues, minlength=len(pieces))
    tokens, whole = [], []
    for token, text in enumerate(texts):
        word = text[1:]
        if text[:1] == " " and len(word) >= 2 and word.isalpha():
            tokens.append(word)
            if len(word) >= 4 and continued[token] < 0.5 * seen[token]:
                whole.append(word)
    return sorted(tokens), sorted(whole)


def needle_example(
    corpus: Corpus,
    length: int,
    depth: float,
    seed: int = 0,
    kind: str = "passkey",
    distractors: int = 0,
) -> NeedleExample:
    """Hide a needle at a given depth in validation text, and ask for it at the end.

    Text, question and answer together have exactly `length` tokens. `depth` is the share of the
    haystack before the needle, from 0 (start) to 1 (end); the needle goes to the nearest line end.
    `distractors` is how many sentences say the same of other names, at random depths. The same
    arguments always give the same example.

    Raises: ValueError for an impossible kind, depth or length, or a tokenizer without words.
    """
    return Haystack(corpus).example(length, depth, seed, kind, distractors)
