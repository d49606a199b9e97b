"""Whatever is wrong in a checkpoint's files, resuming names the file and trains nothing."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from mini_moe.training import latest_checkpoint
from mini_moe.training.checkpoint import cut_log
from tests.training.small_run import small_train

MOMENT = "lm_head.weight/exp_avg"

TENSOR_DAMAGE = {
    "a second moment is missing": lambda t: t.pop("lm_head.weight/exp_avg_sq"),
    "a moment has another shape": lambda t: t.update({MOMENT: torch.zeros(3)}),
    "a moment is not finite": lambda t: t.update({MOMENT: t[MOMENT] * float("nan")}),
    "a tensor too many": lambda t: t.update(more=torch.zeros(2)),
}
SETTING_DAMAGE = {
    "no step": lambda a: a.pop("step"),
    "a step of text": lambda a: a.update(step="4"),
    "another checkpoint's step": lambda a: a.update(step=2),
    "a configuration that is a list": lambda a: a.update(train_config=[1]),
    "seconds of text": lambda a: a.update(seconds="1"),
}


@pytest.fixture(scope="module")
def interrupted(corpus, tmp_path_factory):
    """A run of six steps that was stopped after four."""
    folder = tmp_path_factory.mktemp("interrupted")
    steps = iter(range(1, 5))
    small_train(corpus, folder=folder, checkpoint_every=2, should_stop=lambda: next(steps) == 4)
    return folder


@pytest.fixture
def folder(interrupted, tmp_path):
    """A copy of the run's folder, to be damaged."""
    return shutil.copytree(interrupted, tmp_path / "run")


@pytest.mark.parametrize("damage", TENSOR_DAMAGE.values(), ids=TENSOR_DAMAGE)
def test_damaged_optimizer_state_is_refused(corpus, folder, damage):
    path = latest_checkpoint(folder) / "optimizer.safetensors"
    tensors = load_file(path)
    damage(tensors)
    save_file(tensors, path)
    with pytest.raises(ValueError, match="optimizer.safetensors"):
        small_train(corpus, folder=folder, checkpoint_every=2)


@pytest.mark.parametrize("damage", SETTING_DAMAGE.values(), ids=SETTING_DAMAGE)
def test_damaged_settings_are_refused(corpus, folder, damage):
    path = latest_checkpoint(folder) / "training.json"
    about = json.loads(path.read_text())
    damage(about)
    path.write_text(json.dumps(about))
    with pytest.raises(ValueError, match="training.json"):
        small_train(corpus, folder=folder, checkpoint_every=2)


def test_a_log_without_checkpoints_is_put_aside(tmp_path):
    lines = "".join(json.dumps({"step": step}) + "\n" for step in (1, 2))
    (tmp_path / "log.jsonl").write_text(lines)
    assert cut_log(tmp_path, 0) == []
    assert (tmp_path / "log.jsonl.old").read_text() == lines


@pytest.mark.parametrize("line", ["3", "{}", '{"step": "x"}', "[1]"])
def test_a_line_that_is_not_a_record_ends_the_log(tmp_path, line):
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n' + line + "\n")
    assert cut_log(tmp_path, 5) == [{"step": 1}]
