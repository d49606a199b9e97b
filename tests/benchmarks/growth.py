"""Time of a training step against tokens and against experts, over two decades each.

`presets.lab()`, sequences of 128 tokens, the built corpus; the active size is constant as experts
are added. The last column is the time relative to a straight line through the origin and the
smallest value: 1 is linear, below 1 is better.
"""

from mini_moe import TrainConfig, presets
from mini_moe.profiling import measure_growth
from tests.benchmarks.common import report

AXES = {
    "tokens": (256, 768, 2560, 7680, 25600),
    "experts": (4, 12, 40, 120, 400),
}


def main(rounds: int = 4) -> None:
    """Measure, print, write results/growth.json."""
    rows, exponents = [], {}
    train_config = TrainConfig(batch_size=8, seq_len=128)
    for axis, values in AXES.items():
        growth = measure_growth(
            presets.lab(), axis, values, train_config=train_config, rounds=rounds, memory=False
        )
        exponents[axis] = growth.time._asdict()
        for value, seconds in zip(growth.values, growth.seconds, strict=True):
            linear = growth.seconds[0] * value / values[0]
            rows.append(
                {"axis": axis, "value": value, "seconds": seconds, "/ linear": seconds / linear}
            )
    report("growth", "python -m tests.benchmarks.run growth", rows, exponents=exponents)
