"""Sequences being generated: how to continue each prompt, what was written and why it ended."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mini_moe.arguments import flag, is_whole, items, refused, whole
from mini_moe.inference.sampling import Sampling, greedy_tokens, log_probability, next_token
from mini_moe.inference.stops import TextStream, stop_strings
from mini_moe.model import Transformer

Prompt = str | Sequence[int] | np.ndarray | Tensor
PROMPT = "a string or a list of token ids"
SEEDS = -(2**63), 2**64 - 1  # what a torch.Generator takes


class Piece(NamedTuple):
    """One written token, and the text that has become certain since the previous piece."""

    token: int | None  # None in a last piece that only has text that was held back
    text: str  # "" without a tokenizer
    log_probability: float | None  # of the token, before sampling settings, nats; None if not asked


class Generation(NamedTuple):
    """Everything that was written after one prompt."""

    text: str  # without the stop string; "" without a tokenizer
    tokens: list[int]  # without the stop token, but with the tokens that spell the stop string
    log_probabilities: list[float]  # of each token, before sampling settings, nats; [] if not asked
    ended: str  # "stop token", "stop string", "length" or "context"


class SequenceState:
    """One prompt, how to continue it, and what has been written so far."""

    def __init__(
        self,
        prompt: list[int],
        limit: int,
        ended: str,
        sampling: Sampling,
        generator: torch.Generator | None,
        stop_tokens: frozenset[int],
        text: TextStream | None,
        readable: int | None,
        log_probabilities: bool,
    ) -> None:
        self.prompt, self.limit, self.at_limit = prompt, limit, ended
        self.sampling, self.generator, self.stop_tokens = sampling, generator, stop_tokens
        self.stream, self.readable, self.measured = text, readable, log_probabilities
        self.tokens: list[int] = []
        self.log_probabilities: list[float] = []
        self.texts: list[str] = []
        self.ended = "" if limit else ended

    @torch.inference_mode()
    def take(self, logits: Tensor) -> None:
        """Draw the next token from its logits [vocab]."""
        logits = logits[: self.readable]
        token = next_token(logits, self.sampling, self.generator, self.seen())
        self.add(token, log_probability(logits, token) if self.measured else None)

    def seen(self) -> list[int]:
        """Return the tokens that a repetition penalty applies to; none if there is no penalty."""
        return self.prompt + self.tokens if self.sampling.repetition_penalty != 1 else []

    def add(self, token: int, log_probability: float | None = None) -> None:
        """Record a token as written, unless it is a stop token."""
        if token in self.stop_tokens:
            self.ended = "stop token"
            return
        self.tokens.append(token)
        if log_probability is not None:
            self.log_probabilities.append(log_probability)
        text = self.stream.add(token) if self.stream else ""
        self.texts.append(text)
        self.last_piece = Piece(token, text, log_probability)
        if self.stream and self.stream.stopped:
            self.ended = "stop string"
        elif len(self.tokens) == self.limit:
            self.ended = self.at_limit

    def finish(self) -> str:
        """Release and return the text that was held back until the end."""
        rest = self.stream.end() if self.stream else ""
        self.texts.append(rest)
        return rest

    def generation(self) -> Generation:
        """Finish, and return everything that was written."""
        self.finish()
        return Generation("".join(self.texts), self.tokens, self.log_probabilities, self.ended)


def take_all(sequences: list[SequenceState], logits: Float[Tensor, "batch vocab"]) -> None:
    """Call `take` on every sequence, in a single operation if all of them are plain greedy."""
    simple = all(sequence.sampling.is_argmax and not sequence.measured for sequence in sequences)
    if not simple or len({sequence.readable for sequence in sequences}) > 1:
        for sequence, own in zip(sequences, logits, strict=True):
            sequence.take(own)
        return
    for sequence, token in zip(
        sequences, greedy_tokens(logits[:, : sequences[0].readable]), strict=True
    ):
        sequence.add(token)


def make_sequences(
    model: Transformer,
    prompts: Sequence[Prompt],
    max_new_tokens: int,
    sampling: Sampling | None,
    seed: int | Sequence[int] | None,
    stop_token: int | Collection[int] | None,
    stop: str | Sequence[str] | None,
    log_probabilities: bool,
) -> list[SequenceState]:
    """Create one sequence per prompt. Raises: ValueError as `generate` does."""
    if not isinstance(model, Transformer):
        raise ValueError(f"model: a mini_moe.Transformer expected, got {type(model).__name__}")
    if not isinstance(sampling, Sampling | None):
        raise refused("sampling", sampling, "a Sampling or None")
    limit = whole("max_new_tokens", max_new_tokens, 0)
    measured = flag("log_probabilities", log_probabilities)
    stops, stop_tokens = stop_strings(stop), stop_ids(stop_token, model.config.vocab_size)
    prompts = items("prompts", prompts, "a list of prompts", ordered=True)
    device, sequences = model.embed_tokens.weight.device, []
    for prompt, own in zip(prompts, seeds_of(seed, len(prompts)), strict=True):
        reads = isinstance(prompt, str) or bool(stops)
        if reads and model.tokenizer is None:
            raise ValueError("prompt: this model has no tokenizer; pass token ids or set one")
        ids = prompt_ids(model, prompt)
        room = room_after(ids, model.config.max_seq_len)
        sequences.append(
            SequenceState(
                ids,
                min(limit, room),
                "length" if limit <= room else "context",
                sampling or Sampling(),
                None if own is None else torch.Generator(device).manual_seed(own),
                stop_tokens,
                TextStream(model.tokenizer, stops) if reads else None,
                model.tokenizer.vocab_size if reads else None,
                measured,
            )
        )
    return sequences


def prompts_of(prompt: Prompt | Sequence[Prompt]) -> tuple[list[Prompt], bool]:
    """Return one or several prompts as a list, and whether there were several."""
    if isinstance(prompt, str):
        return [prompt], False
    parts = items("prompt", prompt, f"{PROMPT}, or several of them", ordered=True)
    several = any(not is_whole(part) for part in parts)
    return (parts, True) if several else ([parts], False)


def prompt_ids(model: Transformer, prompt: Prompt) -> list[int]:
    """Return the token ids of a prompt. Raises: ValueError for ids outside the vocabulary."""
    if isinstance(prompt, str):
        return model.tokenizer.encode(prompt)
    ids = [
        whole("prompt: token id", part) for part in items("prompt", prompt, PROMPT, ordered=True)
    ]
    if ids and not 0 <= min(ids) <= max(ids) < model.config.vocab_size:
        wrong = min(ids) if min(ids) < 0 else max(ids)
        raise ValueError(
            f"prompt: ids in [0, vocab_size={model.config.vocab_size}) expected, got {wrong}"
        )
    return ids


def room_after(ids: list[int], max_seq_len: int) -> int:
    """Return how many tokens fit after a prompt; the last is written but never read back."""
    if not ids:
        raise ValueError("prompt: at least one token expected, got an empty prompt")
    if len(ids) > max_seq_len:
        raise ValueError(
            f"prompt: at most max_seq_len={max_seq_len} tokens expected, got {len(ids)}"
        )
    return max_seq_len - len(ids) + 1


def seeds_of(seed: int | Sequence[int] | None, n_prompts: int) -> list[int | None]:
    """Return one seed per prompt: seed + index, or the given ones, or None."""
    if seed is None:
        return [None] * n_prompts
    if is_whole(seed):
        seeds = [whole("seed", seed) + index for index in range(n_prompts)]
    else:
        seeds = items("seed", seed, "an integer, a list of one per prompt, or None", ordered=True)
        if len(seeds) != n_prompts:
            raise ValueError(
                f"seed: one seed, or {n_prompts}, one per prompt, expected, got {len(seeds)}"
            )
    return [whole("seed", own, *SEEDS) for own in seeds]


def stop_ids(stop_token: int | Collection[int] | None, vocab_size: int) -> frozenset[int]:
    """Return one, several or no stop tokens as a set. Raises: ValueError for invalid ids."""
    if stop_token is None:
        return frozenset()
    expected = "a token id, several of them, or None"
    ids = [stop_token] if is_whole(stop_token) else items("stop_token", stop_token, expected)
    return frozenset(whole("stop_token", one, 0, vocab_size - 1) for one in ids)
