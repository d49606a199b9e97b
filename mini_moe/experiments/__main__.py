"""`python -m mini_moe.experiments NAME`: do the missing runs, one line of results per run."""

import argparse
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from mini_moe.console import command_line
from mini_moe.experiments.designs import DESIGNS, Arm
from mini_moe.experiments.measures import machine, measure, settings
from mini_moe.experiments.records import (
    append_run,
    check_same_settings,
    drop_unfinished,
    read_lines,
    replace_runs,
    results_path,
)
from mini_moe.experiments.step_time import step_times
from mini_moe.folders import built_folder
from mini_moe.text import Corpus, load_corpus


@command_line
def main(arguments: list[str] | None = None) -> int:
    """Run an experiment; the exit status is 0 if every requested run is in the file.

    `step_time` is not a list of runs: it always measures from scratch, and needs an idle machine.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parser().parse_args(arguments)
    asked = shlex.join(["python", "-m", "mini_moe.experiments", *arguments])
    path = results_path(options.name, options.folder or built_folder() / "experiments")
    if options.name == "step_time":
        return time_steps(options.arms, path, load_corpus(), asked)
    jobs = chosen(DESIGNS[options.name](), options.arms, options.seeds, options.part)
    whole = run_jobs(options.name, jobs, path, load_corpus(), asked)
    if not whole:
        print("stopped early; the same command continues")
    return 0 if whole else 1


def parser() -> argparse.ArgumentParser:
    """Build the command-line parser."""
    made = argparse.ArgumentParser(prog="python -m mini_moe.experiments", description=__doc__)
    add = made.add_argument
    add("name", choices=[*DESIGNS, "step_time"], help="the experiment")
    add("--seeds", type=int, default=3, help="runs of each arm, seeds 0, 1, … (default: 3)")
    add("--arms", nargs="+", help="only these arms (default: all)")
    add("--part", default="1/1", help="I/N: every N-th run, for N processes side by side")
    add("--folder", type=Path, help="folder of NAME.jsonl (default: data/experiments)")
    return made


def chosen(
    arms: Mapping[str, Arm], names: list[str] | None, seeds: int, part: str = "1/1"
) -> list[tuple[str, Arm, int]]:
    """Return (name, arm, seed) of every requested run, seed by seed.

    Raises: ValueError for an arm that does not exist, fewer than one seed, or a part that is not
    I/N.
    """
    for name in names or ():
        if name not in arms:
            raise ValueError(f"arms: one of {', '.join(arms)} expected, got {name!r}")
    if seeds < 1:
        raise ValueError(f"seeds={seeds} must be at least 1")
    first, slash, of = part.partition("/")
    if not (slash and first.isdigit() and of.isdigit() and 1 <= int(first) <= int(of)):
        raise ValueError(f"part={part!r}: I/N with I from 1 to N expected")
    jobs = [(name, arms[name], seed) for seed in range(seeds) for name in names or arms]
    return jobs[int(first) - 1 :: int(of)]


def time_steps(names: list[str] | None, path: Path, corpus: Corpus, command: str) -> int:
    """Time a step of every arm of `sparsity`, or of the named arms, and replace the file."""
    arms = DESIGNS["sparsity"]()
    jobs = chosen(arms, names, seeds=1)
    records = step_times({name: arms[name] for name, _, _ in jobs}, corpus, command)
    replace_runs(path, records)
    for record in records:
        print(f"{record['arm']}: {1000 * record['median']:.0f} ms per step (median)")
    return 0


def run_jobs(
    experiment: str, jobs: list[tuple[str, Arm, int]], path: Path, corpus: Corpus, command: str
) -> bool:
    """Run what is missing from the file and append it; return False if Ctrl-C ended it early.

    Raises: ValueError if the file has one of these runs with different settings.
    """
    drop_unfinished(path)
    done = finished(path)
    for name, arm, seed in jobs:
        if (name, seed) in done:
            check_same_settings(path, done[name, seed], settings(arm, seed))
    for name, arm, seed in jobs:
        if (name, seed) in finished(path):  # before this command, or by a parallel one
            continue
        record = measure(experiment, name, arm, seed, corpus)
        if record is None:
            return False
        if (name, seed) in finished(path):  # meanwhile, by a parallel command
            continue
        append_run(path, record | {"machine": machine(), "command": command})
        seconds, loss = record["curve"][-1][1], record["validation"]["all"]
        print(f"{name}, seed {seed}: validation {loss:.4f}, {seconds:.0f} s", flush=True)
    return True


def finished(path: Path) -> dict[tuple[str, int], dict]:
    """Return the runs in the file by arm and seed."""
    runs = read_lines(path) if path.is_file() else []
    return {(run["arm"], run["seed"]): run for run in runs}


if __name__ == "__main__":
    sys.exit(main())
