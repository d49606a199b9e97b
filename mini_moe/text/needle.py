"""Needles in a haystack: a fact hidden in real text, a question at the end, an answer to check.

The haystack is the corpus itself. Names, values and haystack of a test come from sides that
training never draws from.
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
HELD_OUT = 0.2  # share of words and keys that only tests see
LEAST_WORDS = 20  # on each side, for a task that is one
SAMPLE = 1_000_000  # tokens in which whole words are told from beginnings of words


@dataclass(frozen=True)
class NeedleExample:
    """A text whose end asks for something that stands somewhere in it."""

    tokens: Int[Tensor, "prompt"]  # haystack, needles and question
    answer: list[int]  # what is to be written after them
    depth: float  # share of the haystack that stands before the needle
    needle: str  # the sentence that answers the question
    question: str
    distractors: tuple[str, ...]  # the same sentence about other names
    text: str  # all of `tokens`

    @property
    def length(self) -> int:
        """Tokens of text and answer together."""
        return len(self.tokens) + len(self.answer)


class NeedleRow(NamedTuple):
    """A text to learn from, with several questions and their answers at its end."""

    tokens: Int[Tensor, "length"]
    answers: Bool[Tensor, "length"]  # tokens that only a needle tells


class Fact(NamedTuple):
    """What one needle says: the value of a name."""

    kind: Kind
    name: str
    value: str

    @property
    def needle(self) -> str:
        """The sentence, a line of its own."""
        return f"The {WHAT[self.kind]} of {self.name} is {self.value}.\n"

    @property
    def question(self) -> str:
        """The question up to where the value begins."""
        what = f"{WHAT[self.kind]} of {self.name}"
        return f"What is the {what}?\nThe {what} is"


class Haystack:
    """Text of one side of a corpus, and the words and keys that may be hidden in it.

    Words come from the tokenizer's vocabulary; where the hash of a word (or of a pass key) falls
    below HELD_OUT, it belongs to the validation side, else to the training side. Tests take whole
    words only.

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
                f"tokenizer: {LEAST_WORDS} whole words with a capital on each side expected, got "
                f"{len(self.names)} for {split}; needles need byte-level BPE and a large vocabulary"
            )

    @cached_property
    def starts(self) -> np.ndarray:
        """Places of the stream at which a line begins."""
        return np.flatnonzero(self.ends_line[np.asarray(self.stream)]) + 1

    def cut(self, length: int, draw: np.random.Generator) -> np.ndarray:
        """`length` tokens of text from the beginning of a line; documents follow each other."""
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
        """One fact for each kind named, all about different names.

        In tests names have a capital; training takes any word, so that what it learns is about
        words in general.
        """
        pool = self.names if self.split == "validation" else self.words
        names = draw.choice(pool, size=len(kinds), replace=False)
        return [
            Fact(kind, str(name), self.value(kind, draw))
            for kind, name in zip(kinds, names, strict=True)
        ]

    def value(self, kind: Kind, draw: np.random.Generator) -> str:
        """A pass key or a word of this side."""
        if kind == "fact":
            return str(draw.choice(self.words))
        while True:
            key = str(draw.integers(10 ** (DIGITS - 1), 10**DIGITS))
            if split_of(key, HELD_OUT) == self.split:
                return key

    def hide(
        self, hay: np.ndarray, needles: list[np.ndarray], depths: list[float]
    ) -> tuple[np.ndarray, list[int]]:
        """The hay with each needle at the end of the line that is nearest to its depth.

        Also where in the hay each was put.
        """
        ends = np.concatenate(([0], np.flatnonzero(self.ends_line[hay]) + 1))
        places = [int(ends[np.abs(ends - depth * len(hay)).argmin()]) for depth in depths]
        parts, before = [], 0
        for place, needle in sorted(zip(places, needles, strict=True), key=lambda pair: pair[0]):
            parts += [hay[before:place], needle]
            before = place
        return np.concatenate([*parts, hay[before:]]), places

    def encode(self, text: str) -> np.ndarray:
        """Token ids of a text."""
        return np.array(self.tokenizer.encode(text), dtype=np.int64)

    def example(
        self, length: int, depth: float, seed: int, kind: str = "passkey", distractors: int = 0
    ) -> NeedleExample:
        """A test: see `needle_example`."""
        if kind not in WHAT:
            raise ValueError(f"kind: expected one of {tuple(WHAT)}, got {kind!r}")
        if not 0 <= depth <= 1:
            raise ValueError(f"depth={depth} must lie in [0, 1]")
        if not 0 <= distractors < len(self.names):
            raise ValueError(f"distractors={distractors} must lie in [0, {len(self.names)})")
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
        """A text of `length` tokens with a pass key and a fact, both asked for at its end.

        Raises: ValueError where they don't fit.
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
    """Words that are one token with the space before them: of two letters or more, and whole ones.

    Whole words have four letters or more, and the training text goes on with another letter after
    less than half of them.
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
    """A text of validation documents with a needle at a depth, and the question after it.

    Text, question and answer have exactly `length` tokens together. `depth` is the share of the
    haystack before the needle: 0 its beginning, 1 its end; the needle goes to the nearest end of a
    line. `distractors` say the same of other names, at random depths. The same arguments always
    give the same example.

    Raises: ValueError for a kind, depth or length that can't be, or a tokenizer without words.
    """
    return Haystack(corpus).example(length, depth, seed, kind, distractors)
