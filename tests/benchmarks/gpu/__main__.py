"""`python -m tests.benchmarks.gpu`: build, check and time every kernel on this machine's GPU."""

import argparse
import datetime
import importlib.metadata
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from mini_moe.ops import compiled
from tests.benchmarks.common import RESULTS
from tests.benchmarks.gpu import check, libraries, report
from tests.benchmarks.gpu.clock import TimeKeeper
from tests.benchmarks.gpu.readings import ask_smi, readings

# Most seconds that each part gets, in running order; unused time passes on to later parts.
PARTS = {
    "build": 150,
    "tiles": 45,
    "check": 150,
    "kernels": 45,
    "layer": 70,
    "products": 90,
    "ladder": 40,
    "training": 40,
    "shapes": 400,
}
RESERVED = {"build": 60, "tiles": 60}  # seconds that earlier parts must leave for this one
START = 12  # seconds that a process needs to start up
SECONDS = 240  # for build, tiles and check; the rest needs a second call


def main(arguments: list[str] | None = None) -> int:
    """Run the parts; exit with 0 if everything ran and all checks passed."""
    options = argparse.ArgumentParser(prog="python -m tests.benchmarks.gpu", description=__doc__)
    options.add_argument("--quick", action="store_true", help="only the first cases of each part")
    options.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART",
                         help=f"one or more of {', '.join(PARTS)}")  # fmt: skip
    options.add_argument(
        "--seconds", type=float, default=SECONDS, help=f"total time (default: {SECONDS})"
    )
    options.add_argument("--commit", default="", help="the sources' commit, if there is no .git")
    options.add_argument("--out", type=Path, default=RESULTS, help="folder for the JSON file")
    options.add_argument(
        "--render", type=Path, metavar="FILE", help="only print a JSON file's tables"
    )
    given = options.parse_args(arguments)
    if given.render:
        print(report.markdown(report.read(given.render)))
        return 0
    if why_not := lacking():
        print(f"bench-gpu: {why_not}", file=sys.stderr)
        return 1
    words = sys.argv[1:] if arguments is None else arguments
    command = " ".join(["python -m tests.benchmarks.gpu", *words])
    result = Run(given, command, machine(given.commit)).all()
    print("\n" + report.markdown(result) + "\n" + report.target_table(result["targets"]))
    print("\n" + report.tiles_answer(result["rows"]))
    checks = [*result["build"].values(), *result["check"].values()]
    return 0 if all(outcome["ok"] is not False for outcome in checks) else 1


def lacking() -> str:
    """Return why nothing can be measured here, or ""."""
    if not torch.cuda.is_available():
        return "there is no NVIDIA GPU that torch can use on this machine, so nothing was measured"
    if libraries.find_nvcc() is None and compiled.CUDA_WHY_NOT:
        return "there is no nvcc, so the kernels cannot be built here"
    return ""


class Run:
    """Runs the parts in order and rewrites the file after each, so an early end loses little."""

    def __init__(
        self,
        given: argparse.Namespace,
        command: str,
        machine: dict,
        part: Callable[[str, Path, float, str], str] | None = None,
    ) -> None:
        self.keeper, self.given = TimeKeeper(given.seconds), given
        self.part = part or run_part
        names = ("build", "check", "seconds")
        self.result = {"benchmark": "gpu", "command": command, "machine": machine}
        self.result |= {"before": readings(), "readings": {}}
        self.result |= {name: {} for name in names}
        self.result |= {"rows": [], "targets": [], "left_out": []}

    def all(self) -> dict:
        """Run every requested part; return the result, which is also on disk."""
        for name in (name for name in PARTS if name in self.given.only):
            start = time.monotonic()
            seconds = self.keeper.share(PARTS[name], RESERVED.get(name, 0))
            print(f"\n{name}: {seconds:.0f} s at most", flush=True)
            if name in ("build", "check"):
                self.prepare(name, seconds)
            else:
                self.measure(name, seconds)
            if name == "tiles":
                print(report.tiles_answer(self.result["rows"]), flush=True)
            self.result["seconds"][name] = round(time.monotonic() - start, 1)
            self.result["targets"] = report.targets(self.result["rows"])
            report.write(self.result, self.given.out)
        self.result["seconds"]["total"] = round(sum(self.result["seconds"].values()), 1)
        print(f"\nwritten: {report.write(self.result, self.given.out)}")
        return self.result

    def prepare(self, name: str, seconds: float) -> None:
        """Build or check, and print the outcome."""
        if name == "build":
            capability = tuple(self.result["machine"]["capability"])
            self.result["build"] = libraries.build(capability, seconds)
        else:
            self.result["check"] = check.check(seconds)
        for what, outcome in self.result[name].items():
            print(f"{what}: {json.dumps(outcome, ensure_ascii=False)}", flush=True)

    def measure(self, name: str, seconds: float) -> None:
        """Run a part in its own process and collect whatever rows it wrote."""
        size = "quick" if self.given.quick else "full"
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "rows.jsonl"
            ended = self.part(name, path, seconds, size)
            lines = path.read_text().splitlines() if path.exists() else []
        for row in map(json.loads, lines):
            if "left_out" in row:
                self.result["left_out"].append(row["left_out"])
            elif "readings" in row:
                self.result["readings"][row.pop("readings")] = row
            else:
                self.result["rows"].append(row)
        if ended:
            print(f"{name}: {ended}", flush=True)
            self.result["left_out"].append(f"{name}: {ended}")


def run_part(name: str, path: Path, seconds: float, size: str) -> str:
    """Run a part; return why it ended early, or ""."""
    if seconds < START:
        return "no time left"
    inside = str(max(seconds - START, 1))
    command = [sys.executable, "-m", "tests.benchmarks.gpu.parts", name, str(path), inside, size]
    try:
        code = subprocess.run(command, cwd=libraries.ROOT, timeout=seconds).returncode
    except subprocess.TimeoutExpired:
        return "stopped, it took longer than its time"
    return f"ended with code {code}" if code else ""


def machine(given_commit: str = "") -> dict:
    """Describe the hardware and the measured sources; their fingerprint needs no git."""
    device = torch.cuda.get_device_properties(0)
    return {
        "date": datetime.date.today().isoformat(),
        "device": device.name,
        "capability": [device.major, device.minor],
        "memory_gb": round(device.total_memory / 1e9, 1),
        "multiprocessors": device.multi_processor_count,
        "l2_mb": round(getattr(device, "L2_cache_size", 0) / 1e6, 1),
        "driver": driver(),
        "cuda": torch.version.cuda,
        "commit": given_commit or commit(),
        "sources": compiled.fingerprint(),
        "python": platform.python_version(),
    } | {name: version(name) for name in ("torch", "triton", "transformers")}


def driver() -> str:
    """Return the driver version from nvidia-smi, or ""."""
    try:
        return ask_smi("driver_version").strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def commit() -> str:
    """Return the commit of the sources, or "" outside a git checkout."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(
            command, cwd=libraries.ROOT, capture_output=True, text=True
        ).stdout.strip()
    except OSError:
        return ""


def version(package: str) -> str:
    """Return the version of an installed package, or ""."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


if __name__ == "__main__":
    sys.exit(main())
