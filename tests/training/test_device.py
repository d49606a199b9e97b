"""Training runs on any device: no tensor is left or created on the CPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mini_moe import device
from mini_moe.device import as_device, device_of
from tests.training.small_run import small_train

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_every_training_runs_on_another_device():
    """Use a separate process, since torch can't unregister a device."""
    claims = "tests/training/elsewhere/on_another_device.py"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", claims, "-q", "-p", "no:cacheprovider"],
        cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-5000:]


def found(monkeypatch, **counts):
    for kind, count in counts.items():
        monkeypatch.setitem(device.HERE, kind, lambda n=count: n)


def test_the_best_device_is_one_that_exists(monkeypatch):
    found(monkeypatch, cuda=0, mps=0)
    assert as_device() == as_device("auto") == as_device("cpu") == torch.device("cpu")
    found(monkeypatch, mps=1)
    assert as_device("auto") == torch.device("mps")
    found(monkeypatch, cuda=2)
    assert as_device(None) == torch.device("cuda")
    assert as_device("cuda:1") == as_device(torch.device("cuda", 1)) == torch.device("cuda", 1)


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "mps", "cpu:1", torch.device("cuda")])
def test_a_missing_device_is_named(monkeypatch, name):
    found(monkeypatch, cuda=0, mps=0)
    with pytest.raises(ValueError, match=f"device: .* got '{name}'; torch .* finds [01] of"):
        as_device(name)


@pytest.mark.parametrize("name", ["", "gpu", "meta", "cuda:x", "xpu", "CUDA"])
def test_an_invalid_name_is_refused(name):
    with pytest.raises(
        ValueError, match=f"device: 'auto', 'cpu', 'cuda' or 'mps' expected, got '{name}'"
    ):
        as_device(name)


def test_nothing_starts_on_a_missing_device(corpus, tmp_path, monkeypatch):
    found(monkeypatch, cuda=0)
    with pytest.raises(ValueError, match="device: .* got 'cuda'"):
        small_train(corpus, folder=tmp_path / "run", device="cuda")
    assert not (tmp_path / "run").exists()


@pytest.mark.gpu
@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_a_run_on_a_gpu_learns_stops_and_resumes_on_either_device(corpus, tmp_path, optimizer):
    options = {"optimizer": optimizer, "checkpoint_every": 2, "folder": tmp_path}
    stop = iter([False, True])
    small_train(corpus, **options, device="cuda", should_stop=lambda: next(stop))
    stop = iter([False, True])
    middle = small_train(corpus, **options, device="cpu", should_stop=lambda: next(stop))
    last = small_train(corpus, **options, device="auto")
    whole = small_train(corpus, optimizer=optimizer)
    assert device_of(middle.model).type == "cpu" and device_of(last.model).type == "cuda"
    expected = [record["loss"] for record in whole.log]
    assert [record["loss"] for record in last.log] == pytest.approx(expected, rel=1e-2)
