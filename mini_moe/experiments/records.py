"""Results on disk: JSON lines, one finished run per line, appended completely or not at all."""

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
    """Load every finished run of an experiment, in the order in which they finished.

    Raises: FileNotFoundError that names the command to run; ValueError that names an incomplete or
    duplicate line.
    """
    path = results_path(name, folder)
    if not path.is_file():
        where = "" if folder is None else f' --folder "{folder}"'
        raise FileNotFoundError(
            f"{path} does not exist; `python -m mini_moe.experiments {name}{where}` creates it"
        )
    return read_lines(path)


def results_path(name: str, folder: str | Path | None = None) -> Path:
    """Return the path of an experiment's results: data/experiments/NAME.jsonl."""
    return (data_folder() / "experiments" if folder is None else Path(folder)) / f"{name}.jsonl"


def read_lines(path: Path) -> list[dict]:
    """Read the runs in a file; see `load_results`."""
    runs, seen = [], {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            run = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number}: not JSON ({error})") from error
        missing = [key for key in NEEDED if not isinstance(run, dict) or key not in run]
        if missing:
            raise ValueError(f"{path}, line {number}: a run with {', '.join(missing)} expected")
        key = (run["arm"], run["seed"])
        if key in seen:
            raise ValueError(
                f"{path}: arm {key[0]!r}, seed {key[1]} in lines {seen[key]}, {number}"
            )
        seen[key] = number
        runs.append(run)
    return runs


def append_run(path: Path, run: dict) -> None:
    """Append one run in a single write under a lock, so that several processes can share a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with lock_of(path), path.open("ab") as file:
        file.write(json.dumps(run, allow_nan=False).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def lock_of(path: Path) -> FileLock:
    """Return the lock to hold while changing a file: a hidden file next to it."""
    return FileLock(path.with_name(f".{path.name}.lock"))


def drop_unfinished(path: Path) -> None:
    """Remove an incomplete last line, left by a process that was killed or ran out of disk space.

    Raises: OSError if the file can't be changed.
    """
    if not path.is_file():
        return
    with lock_of(path), path.open("r+b") as file:
        content = file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            file.truncate(whole)


def check_same_settings(path: Path, run: dict, settings: dict[str, dict]) -> None:
    """Raise ValueError naming the first field in which a stored run differs from `settings`."""
    for group, fields in settings.items():
        fields = json.loads(json.dumps(fields))
        stored = run.get(group, {})
        for field in fields.keys() | stored.keys():
            old, new = stored.get(field, "nothing"), fields.get(field, "nothing")
            if old != new:
                raise ValueError(
                    f"{path}: arm {run['arm']!r}, seed {run['seed']}: {field}={new!r} expected, "
                    f"but it was run with {old!r}; move the file away or choose another --folder"
                )


def replace_runs(path: Path, runs: Sequence[dict]) -> None:
    """Replace a file's contents, completely or not at all."""
    lines = "".join(json.dumps(run, allow_nan=False) + "\n" for run in runs)
    replace_files(path.parent, {path.name: lines})


def final_losses(runs: Sequence[Mapping[str, Any]], arm: str, domain: str = "all") -> list[float]:
    """Return an arm's last validation losses in nats per token, one per seed, sorted by seed.

    Raises: ValueError for an arm without runs, or a domain that was not evaluated.
    """
    by_seed = losses_by_seed(runs, arm, domain)
    return [by_seed[seed] for seed in sorted(by_seed)]


def compare(
    runs: Sequence[Mapping[str, Any]], first: str, second: str, domain: str = "all"
) -> Interval:
    """Return the interval of one arm's loss minus another's, over the seeds that both have.

    Raises: ValueError for an arm without runs, or fewer than two seeds in common.
    """
    one, other = (losses_by_seed(runs, arm, domain) for arm in (first, second))
    common = sorted(one.keys() & other.keys())
    return paired_difference([one[seed] for seed in common], [other[seed] for seed in common])


def losses_by_seed(
    runs: Sequence[Mapping[str, Any]], arm: str, domain: str = "all"
) -> dict[int, float]:
    """Return an arm's last validation loss for each seed; see `final_losses`."""
    of_arm = [run for run in runs if run["arm"] == arm]
    if not of_arm:
        known = ", ".join(sorted({run["arm"] for run in runs}))
        raise ValueError(f"arm={arm!r}: one of {known} expected")
    evaluated = of_arm[0].get("validation", {})
    if domain not in evaluated:
        raise ValueError(f"domain={domain!r}: one of {list(evaluated)} expected")
    return {run["seed"]: run["validation"][domain] for run in of_arm}
