"""What a benchmark ran on: the processor's name, the software, and the load from other work."""

import datetime
import os
import platform
import subprocess
import time
from pathlib import Path

import psutil
import torch

ROOT = Path(__file__).parents[2]
CPUINFO = Path("/proc/cpuinfo")
KIND = {"family": "cpu family", "model": "model"}  # our names, and the fields of CPUINFO
BUSY = 0.05  # share of all cores that other processes may take on a quiet machine
IDLE = ("idle", "iowait", "guest", "guest_nice")  # a guest's time is also counted as user's


def processor(cpuinfo: Path = CPUINFO) -> str:
    """Return the processor's name, on Linux with family and model, since clouds hide the rest.

    "AMD EPYC (family 25, model 17)": several generations may share the bare name.
    """
    if not cpuinfo.exists():
        return platform.processor() or platform.machine()
    lines = cpuinfo.read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    fields = {key.strip(): value.strip() for key, _, value in (x.partition(":") for x in lines)}
    name = fields.get("model name") or platform.processor() or platform.machine()
    kind = [f"{key} {fields[of]}" for key, of in KIND.items() if of in fields]
    return f"{name} ({', '.join(kind)})" if kind else name


class Others:
    """Measures how much of the machine other processes use between two looks."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self.load = psutil.getloadavg()[0]
        self._began, self._busy, self._own = time.perf_counter(), busy_seconds(), own_seconds()

    def since(self) -> dict[str, float | bool]:
        """Return the load average at the last look and other processes' share of all cores since.

        The share includes what a hypervisor gave to other machines. Where the CPU time of ended
        processes is unknown (Windows, macOS), a benchmark's own child processes count as others.
        """
        cores = psutil.cpu_count() or 1
        wall = time.perf_counter() - self._began
        others = busy_seconds() - self._busy - (own_seconds() - self._own)
        share = min(1.0, max(0.0, others / (wall * cores)))
        found = {
            "load_before": round(self.load, 2),
            "others_share": round(share, 3),
            "busy": share > BUSY,
        }
        self._start()
        return found


def busy_seconds() -> float:
    """Return the CPU seconds of all cores and processes since the machine started."""
    times = psutil.cpu_times()._asdict()
    return sum(seconds for kind, seconds in times.items() if kind not in IDLE)


def own_seconds() -> float:
    """Return the CPU seconds of this process and of all that it started."""
    this = psutil.Process()
    total = 0.0
    for process in (this, *this.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.Error:  # it has just ended
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


def software() -> dict[str, str | int]:
    """Return the date, commit and versions behind a figure, and torch's number of threads."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
    )
    return {
        "date": datetime.date.today().isoformat(),
        "commit": commit.stdout.strip(),
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
