"""A run that is killed at any moment and restarted ends with the same bits."""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from mini_moe.training import latest_checkpoint
from mini_moe.training.__main__ import main
from tests.training.small_run import MODEL, TRAINING, as_options, sentences, small_train

STEPS = 40
CLOCKS = {"seconds", "tokens_per_second", "flops_utilisation"}  # differ from run to run
BEFORE_FIRST_STEP = re.compile(rb"0/40")
AFTER_A_STEP = re.compile(rb"[1-9]\d*/40")
# Writing a checkpoint takes longer than the step before it, so most kills hit the writing.
RUNS = {
    "muon_mtp": {"n_mtp_layers": 1, "checkpoint_every": 1, "eval_every": 10, "weight_decay": 0.1},
    "adamw_tied": {
        "optimizer": "adamw",
        "tie_embeddings": True,
        "checkpoint_every": 3,
        "eval_every": 7,
        "learning_rate": 0.01,
    },
}
KILLS = {"muon_mtp": 12, "adamw_tied": 9}  # at least, over as many runs as needed


class Run:
    """One training run in a folder, restarted as often as necessary."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir()
        text = folder.parent / "text.txt"
        text.write_text(sentences())
        self.folder = folder
        self.arguments = as_options(
            {"text": text, "folder": folder}, MODEL, TRAINING | {"steps": STEPS}, RUNS[name]
        )

    def start(self) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-m", "mini_moe.training", *self.arguments],
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def result(self) -> dict:
        """What must be equal: the last checkpoint's files, and the log without clocks."""
        newest = latest_checkpoint(self.folder)
        files = {p.name: p.read_bytes() for p in newest.iterdir() if p.name != "training.json"}
        lines = (self.folder / "log.jsonl").read_text().splitlines()
        records = [json.loads(line) for line in lines]
        log = [{k: v for k, v in record.items() if k not in CLOCKS} for record in records]
        return {"checkpoint": newest.name, "log": log} | files


def wait_for(process: subprocess.Popen, wanted: re.Pattern) -> bytes:
    """Read the progress bar until it shows something, or until the process ends."""
    shown = b""
    while not wanted.search(shown) and (more := os.read(process.stderr.fileno(), 4096)):
        shown += more
    return shown


def steps_logged(folder: Path) -> int:
    log = folder / "log.jsonl"
    return log.read_bytes().count(b"\n") if log.exists() else 0


def wait_for_step(process: subprocess.Popen, folder: Path, step: int) -> None:
    """Watch the log until it has a step, or until the process ends."""
    while process.poll() is None and steps_logged(folder) < step:
        wait(process, 0.005)


def wait(process: subprocess.Popen, seconds: float) -> None:
    """Wait a number of seconds, or until the process ends."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.communicate(timeout=seconds)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Results of uninterrupted runs by name, each run once."""
    made = {}

    def result_of(name: str) -> tuple[dict, float]:
        if name not in made:
            run = Run(tmp_path_factory.mktemp("whole") / "run", name)
            process = run.start()
            wait_for(process, BEFORE_FIRST_STEP)
            began = time.perf_counter()
            assert process.wait() == 0, process.stderr.read().decode()
            made[name] = run.result(), time.perf_counter() - began
        return made[name]

    return result_of


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_a_killed_run_ends_with_the_same_bits(uninterrupted, tmp_path, name, record_property):
    expected, training_seconds = uninterrupted(name)
    seconds_a_step = training_seconds / STEPS
    draw = random.Random()  # different moments each time; each is printed
    kills = half_written = 0
    while kills < KILLS[name]:
        run = Run(tmp_path / f"run{kills}", name)
        while True:
            before = steps_logged(run.folder)
            process = run.start()
            if draw.random() < 0.15:  # somewhere between the first import and the first step
                wait(process, draw.uniform(0, 2.0))
            else:
                wait_for_step(process, run.folder, before + draw.randint(1, 4))
                wait(process, draw.uniform(0, 2 * seconds_a_step))
            process.kill()
            _, said = process.communicate()
            if process.returncode == 0:
                break
            assert process.returncode == -signal.SIGKILL, said.decode()
            kills += 1
            left = [p.name for p in run.folder.glob(".*writing*")]
            half_written += bool(left)
            print(f"kill {kills} of {name}: after {steps_logged(run.folder)} steps, left {left}")
        result = run.result()
        assert [record["step"] for record in result["log"]] == list(range(1, STEPS + 1))
        assert [name for name in expected if result[name] != expected[name]] == []
        shutil.rmtree(run.folder)
    print(f"{name}: {kills} kills, {half_written} while files were being written")
    record_property("kills", kills)


@pytest.mark.slow
def test_ctrl_c_saves_and_the_run_resumes_with_the_same_bits(uninterrupted, tmp_path, capsys):
    expected, _ = uninterrupted("muon_mtp")
    run = Run(tmp_path / "run", "muon_mtp")
    process = run.start()
    wait_for(process, AFTER_A_STEP)
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate()
    log = run.result()["log"]
    assert process.returncode == 0 and b"stopped early; the same command continues" in printed
    assert 0 < log[-1]["step"] < STEPS
    assert latest_checkpoint(run.folder).name == f"step_{log[-1]['step']:06}"
    assert main(run.arguments) == 0
    assert run.result() == expected


def test_should_stop_saves_and_the_run_resumes_with_the_same_bits(corpus, tmp_path):
    whole = small_train(corpus, steps=9)
    options = {"steps": 9, "folder": tmp_path, "checkpoint_every": 4}
    answers = iter([False, False, False, False, False, True])
    stopped = small_train(corpus, should_stop=lambda: next(answers), **options)
    assert stopped.stopped and [r["step"] for r in stopped.log] == [1, 2, 3, 4, 5, 6]
    assert latest_checkpoint(tmp_path).name == "step_000006"
    resumed = small_train(corpus, **options)
    assert not resumed.stopped and [r["step"] for r in resumed.log] == list(range(1, 10))
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], tensor), name
    assert [r["loss"] for r in resumed.log] == [r["loss"] for r in whole.log]
    assert resumed.log[-1]["validation"] == whole.log[-1]["validation"]
    seconds = [r["seconds"] for r in resumed.log]
    assert seconds == sorted(seconds) and seconds[0] > 0


def test_a_stop_at_the_last_step_does_not_count(corpus):
    answers = iter([False, True])
    assert not small_train(corpus, steps=2, should_stop=lambda: next(answers)).stopped


def test_a_finished_run_is_read_not_repeated(corpus, tmp_path):
    first = small_train(corpus, folder=tmp_path)
    seen = []
    again = small_train(corpus, folder=tmp_path, on_step=seen.append)
    assert seen == [] and again.log == first.log and not again.stopped
    for name, tensor in first.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], tensor), name
