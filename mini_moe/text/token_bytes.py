"""The bytes that each token of a tokenizer represents, and which tokenizers are supported."""

from collections.abc import Iterator
from contextlib import contextmanager

import tokenizers
from tokenizers import Regex, decoders, models, pre_tokenizers

END_OF_TEXT = "<|endoftext|>"
END_OF_TEXT_ID = 0


def _byte_alphabet() -> dict[str, int]:
    """Map GPT-2's printable stand-in for each byte back to the byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in printable]
    shown = {chr(byte): byte for byte in printable}
    return shown | {chr(256 + n): byte for n, byte in enumerate(hidden)}


BYTE_OF = _byte_alphabet()


@contextmanager
def library_errors(what: str) -> Iterator[None]:
    """Turn whatever the Rust library raises into ValueError; its panics aren't even Exceptions."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:
        raise ValueError(f"{what} ({error})") from None


def characters_of(backend: tokenizers.Tokenizer) -> set[str] | None:
    """Return the characters of a character-level tokenizer, or None for any other kind."""
    if not isinstance(backend.model, models.WordLevel) or backend.normalizer is not None:
        return None
    if not has_unique_ids(backend):
        return None
    if state(backend.pre_tokenizer) != state(each_character()):
        return None
    if state(backend.decoder) != state(decoders.Fuse()):
        return None
    tokens = backend.get_vocab(with_added_tokens=False)
    return {token for token in tokens if token != END_OF_TEXT and len(token) == 1}


def check_byte_level(backend: tokenizers.Tokenizer) -> None:
    """Raise ValueError unless decoding just joins the bytes of the tokens."""
    if not isinstance(backend.decoder, decoders.ByteLevel):
        kind = type(backend.decoder).__name__
        raise ValueError(f"tokenizer: ByteLevel decoder expected, got {kind}")
    if b'"add_prefix_space":true' in state(backend.pre_tokenizer):
        raise ValueError(
            "tokenizer: add_prefix_space=False expected, but it prepends a space to the text"
        )


def is_plain_byte_level(backend: tokenizers.Tokenizer) -> bool:
    """Return whether every text is restored by construction, as with `train_bpe`."""
    return (
        isinstance(backend.model, models.BPE)
        and not backend.model.end_of_word_suffix
        and not backend.model.continuing_subword_prefix
        and backend.normalizer is None
        and has_unique_ids(backend)
        and state(backend.pre_tokenizer) == state(words_and_digits())
        and all(added.special for added in backend.get_added_tokens_decoder().values())
        and all(backend.token_to_id(byte) is not None for byte in BYTE_OF)
    )


def has_unique_ids(backend: tokenizers.Tokenizer) -> bool:
    """Return whether each token has its own id."""
    ids = backend.get_vocab().values()
    return len(set(ids)) == len(ids)


def bytes_of_tokens(backend: tokenizers.Tokenizer, characters: bool) -> dict[int, bytes]:
    """Map each id to the bytes it represents; added tokens represent their own text."""

    def to_bytes(token: str) -> bytes:
        if characters or any(character not in BYTE_OF for character in token):
            return token.encode()
        return bytes(BYTE_OF[character] for character in token)

    vocabulary = backend.get_vocab(with_added_tokens=False)
    found = {token_id: to_bytes(token) for token, token_id in vocabulary.items()}
    added = backend.get_added_tokens_decoder().items()
    found |= {token_id: token.content.encode() for token_id, token in added}
    if not found:
        raise ValueError("tokenizer: at least one token expected, got an empty vocabulary")
    return found


def state(part: object) -> bytes:
    """Return the JSON of one part of a tokenizer, to compare it with another."""
    return b"null" if part is None else part.__getstate__()


def words_and_digits() -> pre_tokenizers.PreTokenizer:
    """Return a pre-tokenizer that splits text into GPT-2's words and single digits."""
    digits = pre_tokenizers.Digits(individual_digits=True)
    words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    return pre_tokenizers.Sequence([digits, words])


def each_character() -> pre_tokenizers.PreTokenizer:
    """Return a pre-tokenizer that splits text into characters."""
    return pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
