"""From a stream of tokens to rows of a batch: stateless sampling, and windows that cover it all."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor


@dataclass(frozen=True)
class Split:
    """One side of a corpus: a stream of tokens, each with the number of its domain."""

    tokens: (
        np.ndarray
    )  # [n_tokens] uint16 (uint32 for a larger vocabulary), documents end with token 0
    domains: np.ndarray  # [n_tokens] uint8, index into the corpus' domain_names
    n_bytes: int  # of the text these tokens stand for, in UTF-8

    @property
    def n_tokens(self) -> int:
        """Tokens, end-of-text tokens included."""
        return len(self.tokens)

    @property
    def bytes_per_token(self) -> float:
        """Bytes of text per token: what turns a loss per token into bits per byte."""
        return self.n_bytes / self.n_tokens


@dataclass(frozen=True)
class Batch:
    """Rows cut from a split, each token with its domain."""

    tokens: Int[Tensor, "batch length"]
    domains: Int[Tensor, "batch length"]


@dataclass(frozen=True)
class Windows(Batch):
    """Rows that together hold a whole split; `counted` marks each token in exactly one row."""

    counted: Bool[Tensor, "batch length"]  # as a target: False for a row's first token, and repeats


def window_starts(n_tokens: int, length: int, batch: int, seed: int, step: int) -> np.ndarray:
    """Where the rows of batch number `step` begin: uniform over every place where a row fits.

    The places depend on (seed, step) alone. Nothing is remembered between steps, so training
    resumes exactly from the number of the step.

    Raises:
        ValueError: the stream is shorter than one row.
    """
    _check_length(n_tokens, length)
    draw = np.random.default_rng([seed, step])
    return draw.integers(0, n_tokens - length + 1, size=batch)


def sample_batch(split: Split, *, batch: int, length: int, seed: int, step: int) -> Batch:
    """Batch number `step`: `batch` random rows of `length` consecutive tokens.

    For next-token prediction ask for one token more than the model reads: row[:-1] predicts
    row[1:].

    Raises:
        ValueError: the split is shorter than `length`.
    """
    starts = window_starts(split.n_tokens, length, batch, seed, step)
    return Batch(*_cut(split, starts, length))


def windows(split: Split, length: int) -> Windows:
    """Rows of `length` tokens that cover the split; every token but the first counts once.

    A row begins with the last token of the row before (it is context there, a target here). The
    last row is moved back so that it fits, and what it repeats is not counted.

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
    already = (n_rows - 1) * stride + 1  # tokens that the rows before the last one hold
    counted[-1, : already - int(starts[-1])] = False
    return Windows(*_cut(split, starts, length), counted)


def domain_split(split: Split, domain: int) -> Split:
    """The tokens of one domain, documents in their order (bytes counted by the split's mean)."""
    chosen = np.flatnonzero(np.asarray(split.domains) == domain)
    n_bytes = round(len(chosen) * split.bytes_per_token)
    return Split(split.tokens[chosen], split.domains[chosen], n_bytes)


def bits_per_byte(loss: float, bytes_per_token: float) -> float:
    """Loss in nats per token as bits per byte of text: loss / ln 2 / bytes_per_token.

    Comparable between tokenizers, which the loss per token is not.
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
