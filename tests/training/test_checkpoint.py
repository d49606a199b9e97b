"""A checkpoint is complete and fits the run that resumes from it, or is refused by name."""

import dataclasses
import itertools
import json
import os
import resource
import shutil
import signal
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from mini_moe.huggingface import load_hf, save_hf
from mini_moe.text import Corpus
from mini_moe.training import latest_checkpoint
from mini_moe.training.checkpoint import checkpoints, cut_log, restore_checkpoint
from mini_moe.training.loop import fresh_state
from tests.training.small_run import (
    sentences,
    small_model_config,
    small_train,
    small_train_config,
    text_corpus,
)

TENSORS = "optimizer.safetensors"


def stop_after(steps):
    """Return a `should_stop` that says yes after a number of steps."""
    asked = iter(range(1, steps + 1))
    return lambda: next(asked) == steps


def contents(folder):
    """Return every file below a folder with its bytes."""
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def interrupted(corpus, tmp_path_factory):
    """A run of six steps stopped after four, with checkpoints of steps two and four."""
    folder = tmp_path_factory.mktemp("interrupted")
    small_train(corpus, folder=folder, checkpoint_every=2, should_stop=stop_after(4))
    return folder


@pytest.fixture
def folder(interrupted, tmp_path):
    """A copy of the run's folder, to be damaged."""
    return shutil.copytree(interrupted, tmp_path / "run")


def resume(corpus, folder, model_changes=None, **changes):
    return small_train(corpus, model_changes, folder=folder, **{"checkpoint_every": 2} | changes)


def test_the_newest_two_checkpoints_stay(corpus, tmp_path):
    small_train(corpus, folder=tmp_path, checkpoint_every=1)
    assert [p.name for p in checkpoints(tmp_path)] == ["step_000005", "step_000006"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log.jsonl", "step_000005", "step_000006"]


def test_newest_is_by_number_and_only_whole_ones_count(tmp_path):
    assert latest_checkpoint(tmp_path) is None and latest_checkpoint(tmp_path / "none") is None
    for name in ("step_000009", "step_1000000", "step_x", ".step_2000000.writing", "step_000010"):
        (tmp_path / name).mkdir()
    assert latest_checkpoint(tmp_path).name == "step_1000000"
    assert [p.name for p in checkpoints(tmp_path)][:2] == ["step_000009", "step_000010"]


def test_zero_saves_only_at_the_end(corpus, tmp_path):
    small_train(corpus, folder=tmp_path, checkpoint_every=0)
    assert [p.name for p in checkpoints(tmp_path)] == ["step_000006"]


def test_a_checkpoint_is_a_model(corpus, tmp_path):
    run = small_train(corpus, folder=tmp_path)
    loaded = load_hf(latest_checkpoint(tmp_path))
    for name, tensor in run.model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    assert loaded.tokenizer.encode("cat") == corpus.tokenizer.encode("cat")


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_state_survives_bit_by_bit(corpus, tmp_path, optimizer):
    model_changes = {"n_mtp_layers": 1, "tie_embeddings": True}
    changes = {"optimizer": optimizer, "betas": (0.8, 0.9)}
    small_train(corpus, model_changes, folder=tmp_path, **changes)
    newest = latest_checkpoint(tmp_path)
    about = json.loads((newest / "training.json").read_text())
    model_config = small_model_config(corpus, **model_changes)
    config = small_train_config(**changes)
    state = fresh_state(model_config, config, corpus)
    restore_checkpoint(newest, model_config, config, corpus, state)
    saved = load_file(newest / TENSORS)
    names = {id(p): name for name, p in state.model.named_parameters()}
    held = {
        f"{names[id(p)]}/{key}": value
        for o in state.optimizers
        for p, values in o.state.items()
        for key, value in values.items()
    }
    assert held.keys() == saved.keys() and all(torch.equal(held[n], saved[n]) for n in saved)
    assert (state.step, state.seconds) == (6, about["seconds"])


def test_precision_is_that_of_the_interrupted_run(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr("mini_moe.training.loop.bf16_is_faster", lambda device: True)
    whole = small_train(corpus, bf16=None)
    small_train(corpus, bf16=None, folder=tmp_path, should_stop=stop_after(3))
    monkeypatch.setattr("mini_moe.training.loop.bf16_is_faster", lambda device: False)
    resumed = small_train(corpus, bf16=None, folder=tmp_path)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], tensor), name


MODEL_CHANGES = {"top_k": 1, "route_scale": 2.0, "d_expert": 9, "init_std": 0.05, "norm_eps": 1e-5}
TRAIN_CHANGES = {"steps": 7, "seed": 5, "learning_rate": 0.01, "betas": (0.8, 0.9), "log_every": 2}


@pytest.mark.parametrize(("name", "value"), [*MODEL_CHANGES.items(), *TRAIN_CHANGES.items()])
def test_another_configuration_is_refused_by_field(corpus, interrupted, name, value):
    changes = {name: value}
    before = contents(interrupted)
    with pytest.raises(ValueError, match=f"^{name}=.*differs from the interrupted run's"):
        if name in MODEL_CHANGES:
            resume(corpus, interrupted, changes)
        else:
            resume(corpus, interrupted, **changes)
    assert contents(interrupted) == before


def test_fields_that_a_checkpoint_of_deepseek_lacks_are_remembered(corpus, tmp_path):
    changes = {"yarn_original_seq_len": 16, "yarn_beta_fast": 20.0, "init_std": 0.1}
    for _ in range(2):
        run = small_train(corpus, changes, folder=tmp_path, steps=2)
    assert len(run.log) == 2


def test_another_corpus_is_refused(corpus, interrupted, tmp_path):
    text = "".join(corpus.tokenizer.pieces(range(1, corpus.tokenizer.vocab_size)))
    other = text_corpus(tmp_path, (text.replace("·", " ").replace("⏎", "\n")) * 50)
    assert other.tokenizer.vocab_size == corpus.tokenizer.vocab_size
    with pytest.raises(ValueError, match="another corpus"):
        resume(other, interrupted)


def test_a_corpus_rebuilt_elsewhere_is_the_same(corpus, folder, tmp_path):
    text = tmp_path / "renamed.txt"
    text.write_text(sentences())
    again = Corpus.from_text(text)
    built = dataclasses.replace(again, manifest=again.manifest | {"built": "another day"})
    assert built.manifest != corpus.manifest
    assert [r["step"] for r in resume(built, folder).log] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("name", ["training.json", "model.safetensors", TENSORS, "config.json"])
@pytest.mark.parametrize("damage", ["missing", "half", "empty"])
def test_a_damaged_newest_checkpoint_is_named_and_nothing_lost(corpus, folder, name, damage):
    path = folder / "step_000004" / name
    if damage == "missing":
        path.unlink()
    else:
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2] if damage == "half" else b"")
    before = contents(folder)
    with pytest.raises((ValueError, OSError)) as refused:
        resume(corpus, folder)
    assert "step_000004" in str(refused.value) and name in str(refused.value)
    assert contents(folder) == before
    shutil.rmtree(folder / "step_000004")  # as a user may do
    assert [r["step"] for r in resume(corpus, folder).log] == [1, 2, 3, 4, 5, 6]


def test_missing_optimizer_state_is_not_started_from_scratch(corpus, folder):
    path = folder / "step_000004" / TENSORS
    tensors = load_file(path)
    lost = [name for name in tensors if name.startswith("lm_head.weight/")]
    save_file({n: t for n, t in tensors.items() if n not in lost}, path)
    with pytest.raises(ValueError, match=f"{TENSORS} .*lm_head.weight"):
        resume(corpus, folder)


def test_a_half_written_folder_is_ignored_and_swept(corpus, interrupted, folder):
    for name in (".step_000005.writing", ".step_000006.writing"):
        shutil.copytree(folder / "step_000004", folder / name)
        (folder / name / TENSORS).unlink()
    resume(corpus, folder)
    assert sorted(p.name for p in folder.iterdir()) == ["log.jsonl", "step_000004", "step_000006"]


def test_the_log_is_cut_to_whole_lines_of_done_steps(tmp_path):
    lines = [json.dumps({"step": step, "loss": 1.0}) for step in (1, 2, 3, 4)]
    (tmp_path / "log.jsonl").write_text("\n".join(lines) + '\n{"step": 5, "lo')
    assert [r["step"] for r in cut_log(tmp_path, 10)] == [1, 2, 3, 4]
    assert [r["step"] for r in cut_log(tmp_path, 2)] == [1, 2]
    assert (tmp_path / "log.jsonl").read_text().splitlines() == lines[:2]
    assert cut_log(tmp_path / "new", 3) == []


def test_a_saved_model_keeps_its_log(corpus, tmp_path):
    save_hf(small_train(corpus, steps=1).model, tmp_path)
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n')
    before = contents(tmp_path)
    with pytest.raises(ValueError, match="holds a model and its log"):
        small_train(corpus, folder=tmp_path)
    assert contents(tmp_path) == before


def test_a_full_disk_leaves_the_checkpoint_before(corpus, tmp_path):
    def fill(record):  # from now on, no file may be larger than the log
        if record["step"] == 4:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(OSError, match="step 4 not written: .*step_000002 stays"):
            small_train(corpus, folder=tmp_path, checkpoint_every=2, on_step=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log.jsonl", "step_000002"]
    resumed = small_train(corpus, folder=tmp_path, checkpoint_every=2)
    whole = small_train(corpus)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], tensor), name


def test_a_full_disk_at_the_first_checkpoint_says_so(corpus, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mini_moe.training.checkpoint.save_hf", full)
    with pytest.raises(OSError, match="No space left on device; there is none before it"):
        small_train(corpus, folder=tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["log.jsonl"]


def die_at_file_operation(number):
    """Kill this process just before the nth time it creates, renames or removes a file."""

    def count(event, arguments):
        nonlocal number
        opens = event == "open" and (arguments[1] is None or set(arguments[1]) & set("wax"))
        if opens or event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir"):
            number -= 1
            if number == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)


def test_death_at_any_file_operation_of_a_checkpoint_loses_nothing(corpus, interrupted, tmp_path):
    whole = small_train(corpus, checkpoint_every=2)
    for number in itertools.count(1):
        folder = shutil.copytree(interrupted, tmp_path / str(number))
        child = os.fork()
        if child == 0:
            try:
                die_at_file_operation(number)
                resume(corpus, folder)
                os._exit(0)
            finally:
                os._exit(1)
        status = os.waitpid(child, 0)[1]
        resumed = resume(corpus, folder)
        assert [r["step"] for r in resumed.log] == [1, 2, 3, 4, 5, 6]
        for name, tensor in whole.model.state_dict().items():
            assert torch.equal(resumed.model.state_dict()[name], tensor), (number, name)
        assert [p.name for p in checkpoints(folder)][-2:] == ["step_000004", "step_000006"]
        assert not list(folder.glob(".step_*"))
        if status == 0:
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
    print(f"killed at each of {number - 1} file operations")
    assert number > 20  # cutting the log, writing six files, dropping the oldest checkpoint


def test_checkpoint_remembers_both_configurations(corpus, interrupted):
    about = json.loads((interrupted / "step_000004" / "training.json").read_text())
    assert about["model_config"] == dataclasses.asdict(small_model_config(corpus))
    config = dataclasses.asdict(small_train_config(checkpoint_every=2))
    assert about["train_config"] == json.loads(json.dumps(config)) and about["step"] == 4
