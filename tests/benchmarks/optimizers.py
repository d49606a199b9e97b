"""Which optimizer reaches the lower validation loss in the same time: Muon or AdamW.

The tiny preset on the built corpus. Each candidate trains for as many steps as it can do in the
given seconds on this machine, so a slower step must pay off; its learning rate decays to zero.
"""

import dataclasses
import time

from mini_moe import presets
from mini_moe.config import TrainConfig
from mini_moe.text import load_corpus
from mini_moe.training import train
from tests.benchmarks.common import report

SHARED = TrainConfig(steps=1, eval_tokens=16_384, eval_every=10**6)
CANDIDATES = {
    "Muon 0.02, AdamW 0.006 for the rest": {},
    "Muon 0.01, AdamW 0.006 for the rest": {"learning_rate": 0.01},
    "AdamW 0.002": {"optimizer": "adamw", "learning_rate": 0.002, "adamw_learning_rate": 0.002},
    "AdamW 0.004": {"optimizer": "adamw", "learning_rate": 0.004, "adamw_learning_rate": 0.004},
    "AdamW 0.008": {"optimizer": "adamw", "learning_rate": 0.008, "adamw_learning_rate": 0.008},
}


def main(seconds: float = 40.0) -> None:
    """Measure, print, write results/optimizers.json."""
    corpus = load_corpus()
    rows = []
    for name, changes in CANDIDATES.items():
        config = dataclasses.replace(SHARED, **changes)
        steps = int(seconds * steps_per_second(config, corpus))
        start = time.perf_counter()
        run = train(
            presets.tiny(), dataclasses.replace(config, steps=steps), corpus, progress=False
        )
        rows.append(
            {
                "optimizer": name,
                "steps": steps,
                "seconds of steps": run.log[-1]["seconds"],
                "validation loss": run.log[-1]["validation"]["all"],
                "wall clock": time.perf_counter() - start,
            }
        )
    report("optimizers", "python -m tests.benchmarks.run optimizers", rows, budget_seconds=seconds)


def steps_per_second(config: TrainConfig, corpus) -> float:
    """Measure the speed of a short run's last steps."""
    log = train(presets.tiny(), dataclasses.replace(config, steps=14), corpus, progress=False).log
    return 10 / (log[-1]["seconds"] - log[3]["seconds"])
