"""Results on disk: JSON lines, one finished run a line, appended whole or not at all."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from mini_moe.experiments.statistics import Interval, paired_difference
from mini_moe.files import replace_files
from mini_moe.folders import data_folder

NEEDED = ("experiment", "arm", "seed", "model_config", "train_config", "machine", "command")


def load_results(name: str, folder: str | Path | None = None) -> list[dict]:
    """Every finished run of an experiment, in the order in which they finished.

    Raises: FileNotFoundError that names the command to run; ValueError that names the line which
    is not a whole run, or is there twice.
    """
    path = results_path(name, folder)
    if not path.is_file():
        where = "" if folder is None else f' --folder "{folder}"'
        raise FileNotFoundError(
            f"{path} is not there; `python -m mini_moe.experiments {name}{where}` makes it"
        )
    return read_lines(path)


def results_path(name: str, folder: str | Path | None = None) -> Path:
    """Where an experiment's results lie: data/experiments/NAME.jsonl."""
    return (data_folder() / "experiments" if folder is None else Path(folder)) / f"{name}.jsonl"


def read_lines(path: Path) -> list[dict]:
    """The runs in a file; see `load_results`."""
    runs, seen = [], {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            run = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number}: not JSON ({error})") from error
        lacking = [key for key in NEEDED if not isinstance(run, dict) or key not in run]
        if lacking:
            raise ValueError(f"{path}, line {number}: a run with {', '.join(lacking)} expected")
        key = (run["arm"], run["seed"])
        if key in seen:
            raise ValueError(
                f"{path}: arm {key[0]!r}, seed {key[1]} in lines {seen[key]}, {number}"
            )
        seen[key] = number
        runs.append(run)
    return runs


def append_run(path: Path, run: dict) -> None:
    """Add one run in one write, behind a lock, so that two processes may share a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with lock_of(path), path.open("ab") as file:
        file.write(json.dumps(run, allow_nan=False).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def lock_of(path: Path) -> FileLock:
    """Return the lock to hold while changing a file: a hidden file beside it, on every system."""
    return FileLock(path.with_name(f".{path.name}.lock"))


def drop_unfinished(path: Path) -> None:
    """Cut off a last line without its end: a process was killed, or the disk full, while writing.

    Raises: OSError when the file can't be changed.
    """
    if not path.is_file():
        return
    with lock_of(path), path.open("r+b") as file:
        content = file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            file.truncate(whole)


def check_same_settings(path: Path, run: dict, settings: dict[str, dict]) -> None:
    """Raise ValueError naming the first field in which a stored run differs from what is asked."""
    for group, fields in settings.items():
        fields = json.loads(json.dumps(fields))
        stored = run.get(group, {})
        for field in fields.keys() | stored.keys():
            old, new = stored.get(field, "nothing"), fields.get(field, "nothing")
            if old != new:
                raise ValueError(
                    f"{path}: arm {run['arm']!r}, seed {run['seed']} was run with {field}={old!r}, "
                    f"asked for is {new!r}; move the file away, or give another --folder"
                )


def replace_runs(path: Path, runs: Sequence[dict]) -> None:
    """Write a file anew, whole or not at all."""
    lines = "".join(json.dumps(run, allow_nan=False) + "\n" for run in runs)
    replace_files(path.parent, {path.name: lines})


def final_losses(runs: Sequence[Mapping[str, Any]], arm: str, domain: str = "all") -> list[float]:
    """Last validation loss of an arm in nats per token, one number a seed, by rising seed.

    Raises: ValueError for an arm without runs, or a domain that was not evaluated.
    """
    by_seed = losses_by_seed(runs, arm, domain)
    return [by_seed[seed] for seed in sorted(by_seed)]


def compare(
    runs: Sequence[Mapping[str, Any]], first: str, second: str, domain: str = "all"
) -> Interval:
    """Interval for the loss of one arm minus that of another, over the seeds that both have.

    Raises: ValueError for an arm without runs, or fewer than two seeds in common.
    """
    one, other = (losses_by_seed(runs, arm, domain) for arm in (first, second))
    common = sorted(one.keys() & other.keys())
    return paired_difference([one[seed] for seed in common], [other[seed] for seed in common])


def losses_by_seed(
    runs: Sequence[Mapping[str, Any]], arm: str, domain: str = "all"
) -> dict[int, float]:
    """Last validation loss of each seed of an arm; see `final_losses`."""
    of_arm = [run for run in runs if run["arm"] == arm]
    if not of_arm:
        known = ", ".join(sorted({run["arm"] for run in runs}))
        raise ValueError(f"arm={arm!r}: one of {known} expected")
    evaluated = of_arm[0].get("validation", {})
    if domain not in evaluated:
        raise ValueError(f"domain={domain!r}: one of {list(evaluated)} expected")
    return {run["seed"]: run["validation"][domain] for run in of_arm}
