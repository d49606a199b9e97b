"""Clocks, power and temperature from nvidia-smi, while a part is running."""

import statistics
import subprocess
import threading
from collections.abc import Callable

FIELDS = {
    "sm_mhz": "clocks.sm",
    "memory_mhz": "clocks.mem",
    "power_w": "power.draw",
    "celsius": "temperature.gpu",
}
PERIOD = 1.0  # seconds between two readings


def ask_smi(fields: str) -> str:
    """Query nvidia-smi about the first GPU."""
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits", "--id=0"]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout


def readings(query: Callable[[str], str] = ask_smi) -> dict[str, float]:
    """Take one reading; {} if nvidia-smi can't."""
    try:
        values = query(",".join(FIELDS.values())).strip().split(",")
        return {name: float(value) for name, value in zip(FIELDS, values, strict=True)}
    except (OSError, ValueError, subprocess.SubprocessError):
        return {}


class Sampler:
    """Reads repeatedly while its block runs, in its own thread so that nothing waits."""

    def __init__(
        self, read: Callable[[], dict[str, float]] = readings, period: float = PERIOD
    ) -> None:
        self.read, self.period = read, period
        self.found: list[dict[str, float]] = []
        self.done = threading.Event()
        self.thread = threading.Thread(target=self.keep_reading, daemon=True)

    def __enter__(self) -> "Sampler":
        self.thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.done.set()
        self.thread.join()

    def keep_reading(self) -> None:
        """Read until the block ends; stop at once if there is nothing to read."""
        while not self.done.wait(self.period) and (found := self.read()):
            self.found.append(found)

    def summary(self) -> dict[str, float]:
        """Return each field's median, the lowest clock, and the number of readings."""
        if not self.found:
            return {}
        columns = {name: [reading[name] for reading in self.found] for name in FIELDS}
        medians = {name: statistics.median(values) for name, values in columns.items()}
        return medians | {"sm_mhz_low": min(columns["sm_mhz"]), "readings": len(self.found)}
