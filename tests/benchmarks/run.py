"""`make bench`: measure speed on this machine; tables on the screen, JSON in results/."""

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.benchmarks import (
    decoding,
    growth,
    moe_layer,
    needle,
    optimizers,
    routing_memory,
    speculation,
    start_up,
    tinyshakespeare,
    training_speed,
)

NAMES = (
    "moe_layer",
    "training_speed",
    "growth",
    "decoding",
    "speculation",
    "needle",
    "start_up",
    "optimizers",
    "routing_memory",
    "explorer",
    "tinyshakespeare",
)


def main() -> None:
    """Run the named benchmarks, or all for which the given files suffice."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("names", nargs="*", choices=[*NAMES, []], default=[], help="which to run")
    options.add_argument("--text", type=Path, help="the text for tinyshakespeare")
    options.add_argument("--nanogpt", type=Path, help="a checkout of karpathy/nanoGPT")
    options.add_argument("--seconds", type=float, default=100.0, help="time without nanoGPT")
    given = options.parse_args()
    chosen = given.names or [n for n in NAMES if n != "tinyshakespeare" or given.text]
    if "tinyshakespeare" in chosen and given.text is None:
        options.error("tinyshakespeare needs --text FILE")
    for name in ("text", "nanogpt"):
        if (path := getattr(given, name)) and not path.exists():
            options.error(f"--{name} {path}: no such file or folder")
    if "moe_layer" in chosen:
        moe_layer.main()
    if "training_speed" in chosen:
        training_speed.main()
    if "growth" in chosen:
        growth.main()
    if "decoding" in chosen:
        decoding.main()
    if "speculation" in chosen:
        speculation.main()
    if "needle" in chosen:
        needle.main()
    if "start_up" in chosen:
        start_up.main()
    if "optimizers" in chosen:
        optimizers.main()
    if "routing_memory" in chosen:
        routing_memory.main()
    if "explorer" in chosen:
        from tests.benchmarks import explorer  # needs playwright and a Chromium

        explorer.main()
    if "tinyshakespeare" in chosen:
        tinyshakespeare.main(given.text, given.nanogpt, given.seconds)
    if not given.text:
        print("\nskipped tinyshakespeare: it needs a text (--text FILE)")


if __name__ == "__main__":
    main()
