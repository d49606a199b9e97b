"""How often a model finds a needle, by length of the text and depth of the needle.

Source: the same figure as in DeepSeek-V3, arXiv 2412.19437 §4.3, figure 8.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mini_moe.model import Transformer
from mini_moe.text import Corpus
from mini_moe.text.needle import Haystack, NeedleExample

BATCH_TOKENS = 16_384  # most tokens read at once


@dataclass(frozen=True)
class NeedleGrid:
    """Share of trials in which the needle was found."""

    lengths: tuple[int, ...]  # tokens of text, question and answer together
    depths: tuple[float, ...]  # 0: beginning of the text, 1: end
    retrieved: np.ndarray  # [depths, lengths], 0 to 1
    trials: int  # per cell
    kind: str


def needle_grid(
    model: Transformer,
    corpus: Corpus,
    lengths: Sequence[int],
    depths: Sequence[float],
    trials: int,
    seed: int = 0,
    kind: str = "passkey",
    distractors: int = 0,
) -> NeedleGrid:
    """Try every length and depth; the same seed gives every model the same questions.

    Raises: ValueError if a list is empty, trials is below one or a length doesn't fit the model,
    and as `needle_example` does.
    """
    if not lengths or not depths or trials < 1:
        raise ValueError(
            f"lengths={list(lengths)}, depths={list(depths)}, trials={trials}: at least one of "
            "each expected"
        )
    if max(lengths) > model.config.max_seq_len:
        raise ValueError(
            f"lengths: at most max_seq_len={model.config.max_seq_len} expected, got {max(lengths)}"
        )
    haystack = Haystack(corpus)
    retrieved = np.zeros((len(depths), len(lengths)))
    for column, length in enumerate(lengths):
        examples = [
            haystack.example(length, depth, seed * trials + trial, kind, distractors)
            for depth in depths
            for trial in range(trials)
        ]
        found = np.array(retrieves(model, examples)).reshape(len(depths), trials)
        retrieved[:, column] = found.mean(axis=1)
    return NeedleGrid(tuple(lengths), tuple(depths), retrieved, trials, kind)


@torch.inference_mode()
def retrieves(model: Transformer, examples: Sequence[NeedleExample]) -> list[bool]:
    """Whether greedy decoding would give each answer in full; all texts must be equally long.

    A single pass reads text and answer. Decoding token by token gives exactly this answer if, and
    only if, each of its tokens is the likeliest after the tokens before it.
    Raises: ValueError for examples of different lengths.
    """
    lengths = sorted({one.length for one in examples})
    if len(lengths) > 1:
        raise ValueError(f"examples: texts of equal length expected, got lengths {lengths}")
    found, size = [], max(1, BATCH_TOKENS // max(lengths, default=1))
    for first in range(0, len(examples), size):
        batch = examples[first : first + size]
        read = [torch.cat((one.tokens, torch.tensor(one.answer[:-1]).long())) for one in batch]
        for hidden, one in zip(model.hidden(torch.stack(read)), batch, strict=True):
            written = model.lm_head(hidden[-len(one.answer) :]).argmax(dim=-1)
            found.append(written.tolist() == one.answer)
    return found
