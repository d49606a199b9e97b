"""Which needles are found: plain RoPE, YaRN without tuning and YaRN tuned, pass keys and facts.

All three read the same texts. Plain RoPE and YaRN without tuning have the weights of the base
model, which never saw more than 256 tokens.
"""

import time

import numpy as np

from mini_moe import load_hf
from mini_moe.experiments.needle import needle_grid, stretched
from mini_moe.model import Transformer
from mini_moe.text import data_folder, load_corpus
from tests.benchmarks.common import report

CHECKPOINTS = data_folder() / "checkpoints"
LENGTHS = (128, 256, 512, 1024, 2048, 4096)
DEPTHS = tuple(np.linspace(0, 1, 9).tolist())
TRIALS = 12
GUESSED = 3  # distractors of the last rows, in which only the name tells which needle is meant


def conditions() -> dict[str, Transformer]:
    """The three models of the grid."""
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
        start = time.perf_counter()
        grid = needle_grid(
            models[name], corpus, LENGTHS, DEPTHS, trials, kind=kind, distractors=distractors
        )
        which = {"kind": kind, "distractors": distractors, "model": name}
        cells.append(which | {"retrieved": grid.retrieved.round(4).tolist()})
        shares = zip(LENGTHS, grid.retrieved.mean(axis=0), strict=True)
        rows.append(
            which
            | {str(length): round(float(share), 3) for length, share in shares}
            | {"seconds": round(time.perf_counter() - start, 1)}
        )
    report(
        "needle",
        "python -m tests.benchmarks.run needle",
        rows,
        lengths=LENGTHS,
        depths=DEPTHS,
        trials=trials,
        grids=cells,
    )
