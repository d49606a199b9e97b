"""How often a model finds a needle, over the length of the text and the depth of the needle.

Source: the picture is that of DeepSeek-V3, arXiv 2412.19437 §4.3, figure 8.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mini_moe.model import Transformer
from mini_moe.text import Corpus
from mini_moe.text.needle import Haystack, NeedleExample

BATCH_TOKENS = 16_384  # read at once


@dataclass(frozen=True)
class NeedleGrid:
    """Share of trials in which the needle was found."""

    lengths: tuple[int, ...]  # tokens of text, question and answer
    depths: tuple[float, ...]  # 0: beginning of the text, 1: its end
    retrieved: np.ndarray  # [depths, lengths], 0 to 1
    trials: int  # for each cell
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
    """Try every length and depth; the same seed asks every model the same questions.

    Raises: ValueError where a list is empty, trials is below one, a length doesn't fit the model,
    or as `needle_example` does.
    """
    if not lengths or not depths or trials < 1:
        raise ValueError(
            f"lengths={list(lengths)}, depths={list(depths)}, trials={trials}: one of each expected"
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
    """Whether greedy writing would give each answer, all of it; all of one length.

    One pass reads text and answer: where every token of the answer is the likeliest after those
    before it, writing token by token gives just that answer, and where one is not, it doesn't.
    Raises: ValueError for examples of several lengths.
    """
    lengths = sorted({one.length for one in examples})
    if len(lengths) > 1:
        raise ValueError(f"examples: texts of one length expected, got lengths {lengths}")
    found, size = [], max(1, BATCH_TOKENS // max(lengths, default=1))
    for first in range(0, len(examples), size):
        batch = examples[first : first + size]
        rows = [torch.cat((one.tokens, torch.tensor(one.answer[:-1]).long())) for one in batch]
        for hidden, one in zip(model.hidden(torch.stack(rows)), batch, strict=True):
            written = model.lm_head(hidden[-len(one.answer) :]).argmax(dim=-1)
            found.append(written.tolist() == one.answer)
    return found
