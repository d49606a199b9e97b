"""Byte-level BPE (and a character-level variant): text to token ids and back, losslessly."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import SupportsInt

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from mini_moe.files import replace_files
from mini_moe.text.domains import data_folder
from mini_moe.text.token_bytes import (
    END_OF_TEXT,
    END_OF_TEXT_ID,
    bytes_of_tokens,
    characters_of,
    check_byte_level,
    each_character,
    is_plain_byte_level,
    library_errors,
    words_and_digits,
)

LARGEST_CORPUS_VOCABULARY = 65_536  # corpora hold ids as uint16


class Tokenizer:
    """Convert text to token ids and back. `end_of_text_id` ends a document; no text encodes to it.

    Wraps one `tokenizers.Tokenizer`; its JSON file is in the standard Hugging Face format.
    Supports byte-level tokenizers (with a ByteLevel decoder, as in GPT-2 and DeepSeek) and
    character-level ones, which decode by joining the tokens. `encode` refuses a text that `decode`
    would not restore exactly.

    Raises:
        ValueError: an unsupported tokenizer, or `end_of_text_id` is not one of its ids.
    """

    def __init__(self, backend: tokenizers.Tokenizer, end_of_text_id: int | None = END_OF_TEXT_ID):
        self._backend = backend
        self._backend.encode_special_tokens = True  # the literal "<|endoftext|>" is plain text
        self._backend.no_truncation()
        self._backend.no_padding()
        self._characters = characters_of(backend)
        if self._characters is None:
            check_byte_level(backend)
        self._token_bytes = bytes_of_tokens(backend, self._characters is not None)
        self._lossless = self._characters is not None or is_plain_byte_level(backend)
        self.vocab_size = max(self._token_bytes) + 1
        self.end_of_text_id = end_of_text_id
        if end_of_text_id is not None and end_of_text_id not in self._token_bytes:
            raise ValueError(f"end_of_text_id: the id of a token expected, got {end_of_text_id}")
        if not self._lossless:
            self.encode("hello world")  # a tokenizer that can't restore this is useless

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text; `decode` gives back exactly the same text.

        Raises:
            ValueError: the text contains lone surrogates, or the tokenizer can't restore it because
                it doesn't know a character or normalises it to another.
        """
        self._check(text)
        with library_errors("text: the tokenizer failed"):
            ids = self._backend.encode(text, add_special_tokens=False).ids
        if not self._lossless:
            self._check_return(text, ids)
        return ids

    def _check_return(self, text: str, ids: list[int]) -> None:
        """Raise ValueError if the ids decode to a different text."""
        if self.end_of_text_id in ids:
            raise ValueError("text encodes to the end-of-text token, which may only end documents")
        if (back := self.decode(ids)) != text:
            at = len(os.path.commonprefix([back, text]))
            raise ValueError(
                f"text: this tokenizer does not preserve {text[at : at + 20]!r} at position {at}; "
                f"it becomes {back[at : at + 20]!r}"
            )

    def encode_many(self, texts: list[str]) -> list[np.ndarray]:
        """Encode many texts on all cores, as uint16 arrays."""
        if self.vocab_size > LARGEST_CORPUS_VOCABULARY or self.end_of_text_id != END_OF_TEXT_ID:
            raise ValueError(
                f"tokenizer: for a corpus, at most {LARGEST_CORPUS_VOCABULARY} entries and "
                f"end_of_text_id={END_OF_TEXT_ID} expected, got {self.vocab_size} entries and "
                f"{self.end_of_text_id}"
            )
        for text in texts:
            self._check(text)
        with library_errors("texts: the tokenizer failed"):
            encodings = self._backend.encode_batch_fast(texts, add_special_tokens=False)
        if not self._lossless:
            for text, encoding in zip(texts, encodings, strict=True):
                self._check_return(text, encoding.ids)
        return [np.array(encoding.ids, dtype=np.uint16) for encoding in encodings]

    def _check(self, text: str) -> None:
        if not isinstance(text, str):
            raise ValueError(f"text: expected str, got {type(text).__name__}")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"text: expected Unicode text, got the lone surrogate {text[error.start]!r} "
                f"at position {error.start}"
            ) from None
        if self._characters is not None and (unknown := set(text) - self._characters):
            first = min(unknown, key=text.index)
            raise ValueError(
                f"text: expected only the {len(self._characters)} characters of this "
                f"character-level tokenizer, got {first!r} at position {text.index(first)}"
            )

    def decode(self, ids: Iterable[SupportsInt]) -> str:
        """Return the text of token ids; bytes that are not valid UTF-8 become U+FFFD.

        Raises:
            ValueError: an id is outside the vocabulary.
        """
        return b"".join(self.token_bytes(ids)).decode(errors="replace")

    def token_bytes(self, ids: Iterable[SupportsInt]) -> list[bytes]:
        """Return the bytes that each id represents."""
        ids = [int(token_id) for token_id in ids]
        for token_id in ids:
            if not 0 <= token_id < self.vocab_size:
                raise ValueError(
                    f"ids: expected 0 <= id < vocab_size={self.vocab_size}, got {token_id}"
                )
            if token_id not in self._token_bytes:
                raise ValueError(
                    f"ids: {token_id} is not a token of this vocabulary, which has gaps"
                )
        return [self._token_bytes[token_id] for token_id in ids]

    def pieces(self, ids: Iterable[SupportsInt]) -> list[str]:
        """Return readable tokens: `·` is a space, `⏎` a newline, `⇥` a tab, `⟨c3⟩` a lone byte."""
        return [readable(raw) for raw in self.token_bytes(ids)]

    def save(self, path: str | Path) -> None:
        """Write the JSON file; an interrupted save keeps the old file."""
        path = Path(path)
        replace_files(path.parent, {path.name: self.to_json()})

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """Read a JSON file that `save` wrote.

        Raises:
            FileNotFoundError: no such file.
            ValueError: the file is not a tokenizer, or id 0 is not the end-of-text token.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"path: no tokenizer file at {path}")
        with library_errors(f"path: {path} is not a tokenizer file"):
            backend = tokenizers.Tokenizer.from_str(path.read_text("utf-8"))
        if backend.id_to_token(END_OF_TEXT_ID) != END_OF_TEXT:
            raise ValueError(
                f"path: {path}: expected id {END_OF_TEXT_ID} to be {END_OF_TEXT!r}, "
                f"got {backend.id_to_token(END_OF_TEXT_ID)!r}"
            )
        try:
            return cls(backend)
        except ValueError as error:
            raise ValueError(f"path: {path}: {error}") from None

    @classmethod
    def from_json(cls, content: str, end_of_text: int | str | None = None) -> "Tokenizer":
        """Read a tokenizer's JSON; `end_of_text` is the token that ends a text, or its id.

        A "<|endoftext|>" with id 0, as in our own tokenizers, overrides an `end_of_text`
        given as an id, but not one given as a token.

        Raises:
            ValueError: not a tokenizer, an unsupported one, or `end_of_text` is not in it.
        """
        with library_errors("not a tokenizer file"):
            backend = tokenizers.Tokenizer.from_str(content)
        if isinstance(end_of_text, str):
            token_id = backend.token_to_id(end_of_text)
            if token_id is None:
                raise ValueError(f"end_of_text: {end_of_text!r} is not a token")
            return cls(backend, token_id)
        if backend.id_to_token(END_OF_TEXT_ID) == END_OF_TEXT:
            return cls(backend)
        return cls(backend, end_of_text)

    @property
    def end_of_text(self) -> str | None:
        """The token that ends a text, or None if there is none."""
        return (
            None if self.end_of_text_id is None else self._backend.id_to_token(self.end_of_text_id)
        )

    def to_json(self) -> str:
        """Return the JSON that `save` writes."""
        return self._backend.to_str()


def readable(raw: bytes) -> str:
    """Make bytes readable: visible whitespace, control pictures, and hex for invalid UTF-8."""
    text = raw.decode(errors="surrogateescape").translate(_VISIBLE)
    return "".join(f"⟨{ord(c) - 0xDC00:02x}⟩" if "\udc80" <= c <= "\udcff" else c for c in text)


def train_bpe(texts: Iterable[str], vocab_size: int = 4096) -> Tokenizer:
    """Train a byte-level BPE: start from the 256 bytes, merge the most frequent pair until full.

    Digits stay single tokens, so that numbers line up digit by digit. Merges stay within words
    (GPT-2's pattern) and the same texts always give the same merges.

    Raises:
        ValueError: `vocab_size` has no room for 256 bytes and the end-of-text token.
    """
    if not 257 <= vocab_size <= 65_536:
        raise ValueError(f"vocab_size: expected 257 to 65536, got {vocab_size}")
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = words_and_digits()
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return Tokenizer(backend)


def character_tokenizer(text: str) -> Tokenizer:
    """Build a tokenizer: end-of-text, then one token per character of `text` by code point.

    Raises:
        ValueError: the text is empty.
    """
    if not text:
        raise ValueError("text: expected at least one character, got an empty text")
    vocabulary = {END_OF_TEXT: END_OF_TEXT_ID}
    vocabulary |= {character: n for n, character in enumerate(sorted(set(text)), 1)}
    backend = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token=END_OF_TEXT))
    backend.pre_tokenizer = each_character()
    backend.decoder = decoders.Fuse()
    return Tokenizer(backend)


def default_tokenizer() -> Tokenizer:
    """Load the committed tokenizer for the six domains, 4,096 entries (data/tokenizer.json)."""
    return Tokenizer.load(data_folder() / "tokenizer.json")


_VISIBLE = {code: chr(0x2400 + code) for code in range(32)} | {127: "␡"}
_VISIBLE |= {ord(" "): "·", ord("\n"): "⏎", ord("\t"): "⇥"}
