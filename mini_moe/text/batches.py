"""Cut batches from a token stream: stateless random rows, and windows that cover all of it."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor


@dataclass(frozen=True)
class Split:
    """One side of a corpus: a stream of tokens, each labelled with its domain."""

    tokens: (
        np.ndarray
    )  # [n_tokens] uint16 (uint32 for a larger vocabulary), documents end with token 0
    domains: np.ndarray  # [n_tokens] uint8, index into the corpus' domain_names
    n_bytes: int  # UTF-8 size of the text these tokens encode

    @property
    def n_tokens(self) -> int:
        """Number of tokens, including end-of-text tokens."""
        return len(self.tokens)

    @property
    def bytes_per_token(self) -> float:
        """Bytes of text per token, which converts a loss per token into bits per byte."""
        return self.n_bytes / self.n_tokens


@dataclass(frozen=True)
class Batch:
    """Rows cut from a split, with the domain of each token."""

    tokens: Int[Tensor, "batch length"]
    domains: Int[Tensor, "batch length"]


@dataclass(frozen=True)
class Windows(Batch):
    """Rows that together cover a whole split; `counted` marks each token in exactly one row."""

    counted: Bool[Tensor, "batch length"]  # as a target: not a row's first token, no repeats


def window_starts(n_tokens: int, length: int, batch: int, seed: int, step: int) -> np.ndarray:
    """Return where the rows of batch `step` begin, uniform over all positions where a row fits.

    The positions depend only on (seed, step). There is no state between steps, so training can
    resume exactly from the step number.

    Raises:
        ValueError: the stream is shorter than one row.
    """
    _check_length(n_tokens, length)
    draw = np.random.default_rng([seed, step])
    return draw.integers(0, n_tokens - length + 1, size=batch)


def sample_batch(split: Split, *, batch: int, length: int, seed: int, step: int) -> Batch:
    """Return batch number `step`: `batch` random rows of `length` consecutive tokens.

    For next-token prediction, request one token more than the model reads: row[:-1] predicts
    row[1:].

    Raises:
        ValueError: the split is shorter than `length`.
    """
    starts = window_starts(split.n_tokens, length, batch, seed, step)
    return Batch(*_cut(split, starts, length))


def windows(split: Split, length: int) -> Windows:
    """Return rows of `length` tokens that cover the split; every token but the first counts once.

    Each row begins with the last token of the previous one (a target there, context here). The
    last row is shifted back to fit, and the tokens it repeats are not counted.

    Raises:
        ValueError: the split is shorter than `length`, or `length` is below 2.
    """
    if length < 2:
        raise ValueError(f"length: expected at least 2 (context and target), got {length}")
    _check_length(split.n_tokens, length)
    stride = length - 1
    n_rows = math.ceil((split.n_tokens - 1) / stride)
    starts = np.arange(n_rows) * stride
    starts[-1] = split.n_tokens - length
    counted = torch.ones(n_rows, length, dtype=torch.bool)
    counted[:, 0] = False
    already = (n_rows - 1) * stride + 1  # tokens covered before the last row
    counted[-1, : already - int(starts[-1])] = False
    return Windows(*_cut(split, starts, length), counted)


def domain_split(split: Split, domain: int) -> Split:
    """Return one domain's tokens in document order; bytes are estimated from the split's mean."""
    chosen = np.flatnonzero(np.asarray(split.domains) == domain)
    n_bytes = round(len(chosen) * split.bytes_per_token)
    return Split(split.tokens[chosen], split.domains[chosen], n_bytes)


def bits_per_byte(loss: float, bytes_per_token: float) -> float:
    """Convert a loss in nats per token to bits per byte of text: loss / ln 2 / bytes_per_token.

    Unlike the loss per token, it can be compared across tokenizers.
    """
    return loss / math.log(2) / bytes_per_token


def _cut(split: Split, starts: np.ndarray, length: int) -> tuple[Tensor, Tensor]:
    places = starts[:, None] + np.arange(length)
    return tuple(
        torch.from_numpy(np.asarray(stream)[places].astype(np.int64))
        for stream in (split.tokens, split.domains)
    )


def _check_length(n_tokens: int, length: int) -> None:
    if length < 1:
        raise ValueError(f"length: expected at least 1, got {length}")
    if n_tokens < length:
        raise ValueError(
            f"length: one row needs {length} tokens, but the text has only {n_tokens}; "
            "give a longer text or a shorter sequence"
        )
