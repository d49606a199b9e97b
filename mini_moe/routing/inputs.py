"""Check texts, labels and tokenizers as users pass them, and turn them into tensors."""

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from mini_moe.arguments import is_whole, items
from mini_moe.text.token_bytes import BYTE_OF
from mini_moe.text.tokenizer import readable

NAMES = "a list of names"


def read_texts(text: Any, tokenizer: Any) -> tuple[list[Int[Tensor, "seq"]], bool]:
    """Return the token ids of each text, and whether several texts were given.

    Raises: ValueError for an empty text, for a mix of kinds, or for a string without a tokenizer.
    """
    if isinstance(text, str):
        return [_encode(text, tokenizer, "text")], False
    if isinstance(text, Tensor | np.ndarray):
        if text.ndim not in (1, 2):
            raise ValueError(f"text: [seq] or [batch, seq] expected, got {list(text.shape)}")
        texts = list(text) if text.ndim == 2 else [text]
        if not texts:
            raise ValueError("text: at least one token expected, got an empty text")
        return [_ids(ids, "text") for ids in texts], text.ndim == 2
    if not isinstance(text, Sequence) or isinstance(text, bytes | bytearray):
        raise ValueError(f"text: str, token ids or a list expected, got {type(text).__name__}")
    if not text:
        raise ValueError("text: at least one token expected, got an empty text")
    kinds = {_kind(item) for item in text}
    if kinds == {"token id"}:
        return [_ids(text, "text")], False
    if kinds == {"str"}:
        return [_encode(item, tokenizer, f"text[{n}]") for n, item in enumerate(text)], True
    if kinds == {"token ids"}:
        return [_ids(item, f"text[{n}]") for n, item in enumerate(text)], True
    raise ValueError(
        "text: a list of token ids, of str, or of lists of token ids expected, "
        f"got {' and '.join(sorted(kinds))}"
    )


def check_ids(
    texts: list[Int[Tensor, "_"]], vocab_size: int | None, max_seq_len: int | None
) -> None:
    """Raise ValueError unless every id is in the vocabulary and every text fits the model."""
    for n, ids in enumerate(texts):
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or (vocab_size is not None and high >= vocab_size):
            raise ValueError(
                f"text[{n}]: ids in [0, vocab_size={vocab_size}) expected, got {low} to {high}"
            )
        if max_seq_len is not None and len(ids) > max_seq_len:
            raise ValueError(
                f"text[{n}]: at most max_seq_len={max_seq_len} tokens expected, got {len(ids)}"
            )


def read_labels(
    labels: Any, lengths: list[int], names: Sequence[str], several: bool
) -> tuple[list[Int[Tensor, "_"]] | None, tuple[str, ...]]:
    """Return the label of every token of every text as a number, and the names of the labels.

    Names are numbered by their position in `names`, or in order of appearance if it is empty.

    Raises: ValueError if the number of labels doesn't match the texts or tokens, for a name that
    is not in `names`, a number without a name, or names mixed with numbers.
    """
    names = items("label_names", names, NAMES, ordered=True)
    if labels is None:
        return None, tuple(names)
    if not several:
        labels = [labels]
    n_labels = None if isinstance(labels, str) else getattr(labels, "__len__", lambda: None)()
    if n_labels != len(lengths):
        got = repr(labels) if n_labels is None else n_labels
        raise ValueError(f"labels: one for each of {len(lengths)} texts expected, got {got}")
    pairs = enumerate(zip(labels, lengths, strict=True))
    return _numbered([_of_tokens(label, length, n) for n, (label, length) in pairs], names)


def check_stream(
    tokens: Any, labels: Any, seq_len: int, batch_tokens: int, max_seq_len: int | None
) -> None:
    """Raise ValueError unless a stream has tokens, a label for each, and a fitting `seq_len`."""
    shape = _shape(tokens)
    if len(shape) != 1 or not shape[0]:
        raise ValueError(f"tokens: [n_tokens], not empty, expected; got {shape}")
    if labels is not None and _shape(labels) != shape:
        raise ValueError(
            f"labels: one for each of {shape[0]} tokens expected, got {_shape(labels)}"
        )
    for name, values in (("tokens", tokens), ("labels", labels)):
        first = None if values is None else values[0]
        first = first.item() if isinstance(first, Tensor) else first
        if first is not None and not isinstance(first, Integral):
            raise ValueError(f"{name}: integers expected, got {first!r}")
    if seq_len < 1 or (max_seq_len is not None and seq_len > max_seq_len):
        raise ValueError(f"seq_len: 1 to max_seq_len={max_seq_len} expected, got {seq_len}")
    if batch_tokens < seq_len:
        raise ValueError(f"batch_tokens: at least seq_len={seq_len} expected, got {batch_tokens}")


def pieces_of(ids: list[int], tokenizer: Any) -> list[str]:
    """Return each token as a readable string, or its id if there is no tokenizer.

    Tokens of transformers' tokenizers are shown like ours: `·` for a space, `⏎` for a newline,
    `⟨c3⟩` for a byte that is not a character by itself.
    Raises: ValueError for a tokenizer of an unknown kind.
    """
    if tokenizer is None:
        return [str(token_id) for token_id in ids]
    if hasattr(tokenizer, "pieces"):
        return tokenizer.pieces(ids)
    if not hasattr(tokenizer, "convert_ids_to_tokens"):
        raise ValueError(
            "tokenizer: one of this package or of transformers expected, "
            f"got {type(tokenizer).__name__}"
        )
    in_bytes = tokenizer.convert_tokens_to_string(["Ġa", "Ġa"]).endswith(" a")
    return [
        str(token_id) if token is None else _readable(token, in_bytes)
        for token_id, token in zip(ids, tokenizer.convert_ids_to_tokens(ids), strict=True)
    ]


def _readable(token: str, in_bytes: bool) -> str:
    """Spell out an entry of a byte-level (Ġ is a space) or SentencePiece (▁, <0x0A>) vocabulary."""
    if in_bytes:
        spelled = all(character in BYTE_OF for character in token)
        return readable(bytes(map(BYTE_OF.get, token)) if spelled else token.encode())
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return readable(bytes([int(token[3:5], 16)]))
    return readable(token.replace("▁", " ").encode())


def _shape(values: Any) -> list[int]:
    return list(values.shape if isinstance(values, Tensor) else np.shape(values))


def _kind(item: Any) -> str:
    if isinstance(item, str):
        return "str"
    if is_whole(item):
        return "token id"
    listed = isinstance(item, Sequence) and not isinstance(item, bytes | bytearray)
    listed = listed or (isinstance(item, Tensor | np.ndarray) and item.ndim)
    return "token ids" if listed else type(item).__name__


def _encode(text: str, tokenizer: Any, name: str) -> Int[Tensor, "seq"]:
    if tokenizer is None:
        raise ValueError(f"{name}: this model has no tokenizer; pass token ids or a tokenizer")
    if not hasattr(tokenizer, "encode"):
        raise ValueError(
            "tokenizer: one of this package or of transformers expected, "
            f"got {type(tokenizer).__name__}"
        )
    return _ids(tokenizer.encode(text) if text else [], name)


def _ids(ids: Any, name: str) -> Int[Tensor, "seq"]:
    """Return one text's ids as int64 on the CPU."""
    if isinstance(ids, Sequence) and any(isinstance(one, bool | np.bool_) for one in ids):
        raise ValueError(f"{name}: integer ids expected, got {list(ids)}")
    if isinstance(ids, np.ndarray) and ids.dtype.kind == "u":
        ids = ids.astype(np.int64)
    try:
        tensor = torch.as_tensor(ids)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: token ids expected, got {error}") from None
    if not tensor.numel():
        raise ValueError(f"{name}: at least one token expected, got an empty text")
    if tensor.ndim != 1:
        raise ValueError(f"{name}: ids [seq] expected, got {list(tensor.shape)}")
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        raise ValueError(f"{name}: integer ids expected, got {tensor.dtype}")
    return tensor.long().cpu()


def _of_tokens(label: Any, length: int, n: int) -> list:
    """Return one label per token of a text, given one for the whole text or one per token."""
    if isinstance(label, Tensor | np.ndarray):
        label = label.tolist()
    is_one = isinstance(label, str) or not isinstance(label, Sequence)
    values = [label] * length if is_one else list(label)
    if len(values) != length:
        raise ValueError(
            f"labels[{n}]: one for each of {length} tokens expected, got {len(values)}"
        )
    return values


def _numbered(each: list[list], names: list[str]) -> tuple[list[Tensor], tuple[str, ...]]:
    """Return labels as numbers, and `names`, or if it is empty the names in order of appearance."""
    values = {value for label in each for value in label}
    if not all(isinstance(value, Integral) for value in values):
        if not all(isinstance(value, str) for value in values):
            kinds = sorted({type(value).__name__ for value in values})
            raise ValueError(f"labels: all numbers or all names expected, got {kinds}")
        names = names or list(dict.fromkeys(value for label in each for value in label))
        if unknown := values - set(names):
            raise ValueError(f"labels: names among {names} expected, got {sorted(unknown)}")
        place = {name: n for n, name in enumerate(names)}
        each = [[place[value] for value in label] for label in each]
    elif names and not all(0 <= value < len(names) for value in values):
        raise ValueError(
            f"labels: numbers in [0, {len(names)}), the indices of label_names, expected, "
            f"got {min(values)} to {max(values)}"
        )
    return [torch.tensor(label, dtype=torch.long) for label in each], tuple(names)
