"""Clocks, power and temperature as nvidia-smi reads them, while a part is at work."""

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
    """What nvidia-smi knows of the first GPU."""
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits", "--id=0"]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout


def readings(query: Callable[[str], str] = ask_smi) -> dict[str, float]:
    """One reading; {} where nvidia-smi cannot."""
    try:
        values = query(",".join(FIELDS.values())).strip().split(",")
        return {name: float(value) for name, value in zip(FIELDS, values, strict=True)}
    except (OSError, ValueError, subprocess.SubprocessError):
        return {}


class Sampler:
    """Reads again and again while its block runs; a thread of its own, so that nothing waits."""

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
        """Until the block ends, or at once where there is nothing to read."""
        while not self.done.wait(self.period) and (found := self.read()):
            self.found.append(found)

    def summary(self) -> dict[str, float]:
        """Of each field the median, with the least clock and how many readings there were."""
        if not self.found:
            return {}
        columns = {name: [reading[name] for reading in self.found] for name in FIELDS}
        medians = {name: statistics.median(values) for name, values in columns.items()}
        return medians | {"sm_mhz_low": min(columns["sm_mhz"]), "readings": len(self.found)}
