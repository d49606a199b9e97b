"""Only one run writes to a folder at a time; a second is refused before it changes anything."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from mini_moe.training import add_mtp
from mini_moe.training.__main__ import main
from mini_moe.training.context import __main__ as context
from mini_moe.training.run import only_writer
from tests.training.small_run import MODEL, TRAINING, as_options, sentences, small_train

HOLD = """
import sys, time
from pathlib import Path
from mini_moe.training.run import only_writer
with only_writer(Path(sys.argv[1])):
    print("holds", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(sentences())
    return path


@pytest.fixture
def taken(tmp_path):
    """A folder that another thread is writing to."""
    folder, held, done = tmp_path / "taken", threading.Event(), threading.Event()

    def hold():
        with only_writer(folder):
            held.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    yield folder
    done.set()
    thread.join()


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


def test_a_second_run_is_refused_and_the_first_continues(corpus, tmp_path):
    refused, steps = [], []

    def second():
        try:
            small_train(corpus, folder=tmp_path, on_step=steps.append)
        except ValueError as error:
            refused.append(str(error))

    def on_step(record):
        if record["step"] == 3:
            thread = threading.Thread(target=second)
            thread.start()
            thread.join()

    run = small_train(corpus, folder=tmp_path, checkpoint_every=1, on_step=on_step)
    assert len(run.log) == 6 and not steps
    assert refused == [
        f"folder={str(tmp_path)!r}: another run is writing there; stop it, wait until it ends, or "
        "use another folder"
    ]
    assert names(tmp_path) == ["log.jsonl", "step_000005", "step_000006"]
    assert not (tmp_path / ".lock").exists()


def test_another_process_holds_a_folder_until_it_dies(corpus, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, env=os.environ
    )
    try:
        assert process.stdout.readline() == b"holds\n"
        with pytest.raises(ValueError, match="another run is writing there"):
            small_train(corpus, folder=tmp_path)
        assert names(tmp_path) == []
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert (tmp_path / ".lock").exists()  # the file it left blocks no one
        assert len(small_train(corpus, folder=tmp_path).log) == 6
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt])
def test_a_run_that_fails_gives_its_folder_back(corpus, tmp_path, error):
    def fail(record):
        raise error

    with pytest.raises(error):
        small_train(corpus, folder=tmp_path, on_step=fail)
    assert len(small_train(corpus, folder=tmp_path).log) == 6


def test_a_command_may_train_and_save_in_one_folder(text, tmp_path):
    folder = tmp_path / "run"
    options = {"text": text, "folder": folder, "save": folder, "device": "cpu"}
    assert main(as_options(options, MODEL, TRAINING)) == 0
    assert {"config.json", "log.jsonl", "step_000006"} <= set(names(folder))


def test_every_command_that_saves_refuses_a_folder_that_is_taken(text, taken, tmp_path, capsys):
    started = time.perf_counter()
    assert main(as_options({"text": text, "save": taken}, MODEL, TRAINING)) == 1
    assert add_mtp.main(["--checkpoint", str(tmp_path / "none"), "--save", str(taken)]) == 1
    assert context.main(["base", "--save", str(taken)]) == 1
    said = capsys.readouterr().err
    assert said.count("another run is writing there") == 3 and said.count("\n") == 3
    assert names(taken) == [] and time.perf_counter() - started < 30
