"""Which needles are found by plain RoPE, untuned YaRN and tuned YaRN: pass keys and facts.

All three read the same texts. Plain RoPE and untuned YaRN use the weights of the base model, which
was trained on at most 256 tokens.
"""

import numpy as np

from mini_moe import load_hf
from mini_moe.experiments.needle import needle_grid, retrieves, stretched
from mini_moe.model import Transformer
from mini_moe.text import Corpus, data_folder, load_corpus
from mini_moe.text.needle import Haystack
from tests.benchmarks.common import report

CHECKPOINTS = data_folder() / "checkpoints"
LENGTHS = (128, 256, 512, 1024, 2048, 4096)
DEPTHS = tuple(np.linspace(0, 1, 9).tolist())
TRIALS = 12
WRITERS = ("plain RoPE", "YaRN tuned")  # tested on every word, at 256 tokens
GUESSED = 3  # distractors in the last rows, where only the name tells which needle is meant


def conditions() -> dict[str, Transformer]:
    """Return the three models of the grid."""
    base, tuned = load_hf(CHECKPOINTS / "needle_base"), load_hf(CHECKPOINTS / "needle")
    factor, longest = tuned.config.yarn_factor, tuned.config.max_seq_len
    return {
        "plain RoPE": stretched(base, 1.0, longest),
        "YaRN": stretched(base, factor),
        "YaRN tuned": tuned,
    }


def main(trials: int = TRIALS) -> None:
    """Measure, print, write results/needle.json with every cell."""
    corpus, models, rows, cells = load_corpus(), conditions(), [], []
    plans = [(kind, name, 0) for kind in ("passkey", "fact") for name in models]
    plans += [(kind, "YaRN tuned", GUESSED) for kind in ("passkey", "fact")]
    for kind, name, distractors in plans:
        grid = needle_grid(
            models[name], corpus, LENGTHS, DEPTHS, trials, kind=kind, distractors=distractors
        )
        which = {"kind": kind, "distractors": distractors, "model": name}
        cells.append(which | {"retrieved": grid.retrieved.round(4).tolist()})
        shares = zip(LENGTHS, grid.retrieved.mean(axis=0), strict=True)
        rows.append(which | {str(length): round(float(share), 3) for length, share in shares})
    report(
        "needle",
        "python -m tests.benchmarks.run needle",
        rows,
        lengths=LENGTHS,
        depths=DEPTHS,
        trials=trials,
        words=len(Haystack(corpus).words),
        never_written={name: never_written(models[name], corpus) for name in WRITERS},
        grids=cells,
    )


def never_written(model: Transformer, corpus: Corpus) -> list[str]:
    """Return the test words that a model never writes as a fact's answer in any of three texts."""
    haystack, never = Haystack(corpus), []
    words = haystack.words
    for word in words:
        haystack.words = [word]  # names are in another list
        examples = [haystack.example(256, depth, 0, "fact") for depth in (0.1, 0.5, 0.9)]
        if not any(retrieves(model, examples)):
            never.append(word)
    return never
