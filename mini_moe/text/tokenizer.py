"""Byte-level BPE (and a character-level variant): text to token ids and back, without loss."""

from collections.abc import Iterable
from pathlib import Path
from typing import SupportsInt

import numpy as np
import tokenizers
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers

from mini_moe.files import replace_files
from mini_moe.text.domains import data_folder

END_OF_TEXT = "<|endoftext|>"
END_OF_TEXT_ID = 0


class Tokenizer:
    """Token ids for any text, and back. Id 0 ends a document; no text can spell it.

    Wraps one `tokenizers.Tokenizer`; its JSON file is the ordinary Hugging Face format.
    """

    def __init__(self, backend: tokenizers.Tokenizer):
        self._backend = backend
        self._backend.encode_special_tokens = True  # the literal "<|endoftext|>" is mere characters
        self._backend.no_truncation()
        self._backend.no_padding()
        self._is_characters = not isinstance(backend.decoder, decoders.ByteLevel)
        vocabulary = backend.get_vocab()
        self.vocab_size = max(vocabulary.values()) + 1
        self._token_bytes = [b""] * self.vocab_size
        for token, token_id in vocabulary.items():
            self._token_bytes[token_id] = self._to_bytes(token)
        self._token_bytes[END_OF_TEXT_ID] = END_OF_TEXT.encode()
        self._characters = set(vocabulary) if self._is_characters else None

    def _to_bytes(self, token: str) -> bytes:
        """The bytes that a vocabulary entry stands for."""
        if self._is_characters:
            return token.encode()
        return bytes(BYTE_OF[character] for character in token if character in BYTE_OF)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text; `decode` gives exactly the same text back.

        Raises:
            ValueError: the text holds lone surrogates, or (character level) an unknown character.
        """
        self._check(text)
        return self._backend.encode(text, add_special_tokens=False).ids

    def encode_many(self, texts: list[str]) -> list[np.ndarray]:
        """`encode` for many texts on all cores, as uint16 arrays."""
        for text in texts:
            self._check(text)
        encodings = self._backend.encode_batch_fast(texts, add_special_tokens=False)
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
                f"text: expected only the {len(self._characters) - 1} characters of this "
                f"character-level tokenizer, got {first!r} at position {text.index(first)}"
            )

    def decode(self, ids: Iterable[SupportsInt]) -> str:
        """The text of token ids; bytes that are no valid UTF-8 become U+FFFD.

        Raises:
            ValueError: an id outside the vocabulary.
        """
        return b"".join(self.token_bytes(ids)).decode(errors="replace")

    def token_bytes(self, ids: Iterable[SupportsInt]) -> list[bytes]:
        """The bytes each id stands for."""
        ids = [int(token_id) for token_id in ids]
        for token_id in ids:
            if not 0 <= token_id < self.vocab_size:
                raise ValueError(
                    f"ids: expected 0 <= id < vocab_size={self.vocab_size}, got {token_id}"
                )
        return [self._token_bytes[token_id] for token_id in ids]

    def pieces(self, ids: Iterable[SupportsInt]) -> list[str]:
        """Each token as a readable string: `·` space, `⏎` newline, `⇥` tab, `⟨c3⟩` a lone byte."""
        return [readable(raw) for raw in self.token_bytes(ids)]

    def save(self, path: str | Path) -> None:
        """Write the JSON file; an interrupted save leaves the old file."""
        path = Path(path)
        replace_files(path.parent, {path.name: self.to_json()})

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """Read a JSON file that `save` wrote.

        Raises:
            FileNotFoundError: no such file.
            ValueError: the file is no tokenizer, or id 0 does not end a text.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"path: no tokenizer file at {path}")
        try:
            backend = tokenizers.Tokenizer.from_str(path.read_text("utf-8"))
        except Exception as error:  # the library raises bare Exception for bad JSON
            raise ValueError(f"path: {path} is not a tokenizer file ({error})") from None
        if backend.id_to_token(END_OF_TEXT_ID) != END_OF_TEXT:
            raise ValueError(
                f"path: {path}: expected id {END_OF_TEXT_ID} to be {END_OF_TEXT!r}, "
                f"got {backend.id_to_token(END_OF_TEXT_ID)!r}"
            )
        return cls(backend)

    def to_json(self) -> str:
        """What `save` writes."""
        return self._backend.to_str()


def readable(raw: bytes) -> str:
    """Bytes for display: visible blanks, control pictures, and hex for what is not UTF-8."""
    text = raw.decode(errors="surrogateescape").translate(_VISIBLE)
    return "".join(f"⟨{ord(c) - 0xDC00:02x}⟩" if "\udc80" <= c <= "\udcff" else c for c in text)


def train_bpe(texts: Iterable[str], vocab_size: int = 4096) -> Tokenizer:
    """Byte-level BPE: start from the 256 bytes, merge the most frequent pair until full.

    Digits stay single tokens, so that numbers line up digit by digit. Merges stay within words
    (GPT-2's pattern) and the same texts always give the same merges.

    Raises:
        ValueError: `vocab_size` has no room for 256 bytes and the end-of-text token.
    """
    if not 257 <= vocab_size <= 65_536:
        raise ValueError(f"vocab_size: expected 257 to 65536, got {vocab_size}")
    backend = tokenizers.Tokenizer(models.BPE())
    digits = pre_tokenizers.Digits(individual_digits=True)
    words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence([digits, words])
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
    """One token per character of `text`, in code-point order, after the end-of-text token.

    Raises:
        ValueError: the text is empty.
    """
    if not text:
        raise ValueError("text: expected at least one character, got an empty text")
    vocabulary = {END_OF_TEXT: END_OF_TEXT_ID}
    vocabulary |= {character: n for n, character in enumerate(sorted(set(text)), 1)}
    backend = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token=END_OF_TEXT))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    backend.decoder = decoders.Fuse()
    return Tokenizer(backend)


def default_tokenizer() -> Tokenizer:
    """The committed tokenizer of the six domains, 4,096 entries (data/tokenizer.json)."""
    return Tokenizer.load(data_folder() / "tokenizer.json")


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-in for each byte, reversed: character to byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in printable]
    shown = {chr(byte): byte for byte in printable}
    return shown | {chr(256 + n): byte for n, byte in enumerate(hidden)}


BYTE_OF = _byte_alphabet()
_VISIBLE = {code: chr(0x2400 + code) for code in range(32)} | {127: "␡"}
_VISIBLE |= {ord(" "): "·", ord("\n"): "⏎", ord("\t"): "⇥"}
