"""Run one part: python -m tests.benchmarks.gpu.parts NAME ROWS SECONDS SIZE."""

import sys
from pathlib import Path

import torch

from tests.benchmarks.gpu.clock import Clock, TimeKeeper
from tests.benchmarks.gpu.libraries import LIBRARY, Launchers
from tests.benchmarks.gpu.parts import kernels, layers, products, training
from tests.benchmarks.gpu.parts.bench import Bench, Rows
from tests.benchmarks.gpu.readings import Sampler

PARTS = {
    "tiles": products.run_tiles,
    "kernels": kernels.run,
    "products": products.run,
    "layer": layers.run,
    "ladder": products.run_ladder,
    "training": training.run,
    "shapes": layers.run_shapes,
}


def main(name: str, rows: str, seconds: str, size: str) -> None:
    """Measure on the GPU; append rows to the file as they come."""
    keeper = TimeKeeper(float(seconds))
    torch.manual_seed(0)
    launchers = Launchers() if LIBRARY.exists() else None
    bench = Bench(Clock("cuda"), keeper, size, Rows(Path(rows)), launchers)
    with Sampler() as sampler:
        PARTS[name](bench)
    bench.write({"readings": name} | sampler.summary())


if __name__ == "__main__":
    main(*sys.argv[1:])
