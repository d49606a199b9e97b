"""Saving is all or nothing: full disks, locked folders and killed processes lose no old files."""

import errno
import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from mini_moe.files import replace_files, sync_folder
from mini_moe.huggingface import load_hf, save_hf
from tests.helpers import small_model
from tests.windows import refuse_like_windows

OLD = {"weights.safetensors": {"w": torch.zeros(3)}, "config.json": {"a": 1}, "note.txt": "old"}


def snapshot(folder):
    """Return every file's bytes, including hidden files."""
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


def in_child(function):
    """Run a function in a forked process, to keep limits and signals there; return its exit code.

    0: it returned; 17: it raised OSError; −9: it was killed.
    """
    child = multiprocessing.get_context("fork").Process(
        target=exit_17_for_os_error, args=[function]
    )
    child.start()
    child.join(timeout=60)
    return child.exitcode


def exit_17_for_os_error(function):
    try:
        function()
    except OSError:
        sys.exit(17)


def test_all_files_may_be_read_by_whom_the_system_lets(tmp_path):
    before = os.umask(0o027)
    try:
        replace_files(tmp_path, OLD)
    finally:
        os.umask(before)
    assert {oct(path.stat().st_mode & 0o777) for path in tmp_path.iterdir()} == {"0o640"}


def test_files_hold_what_was_given(tmp_path):
    replace_files(tmp_path / "new" / "folder", OLD)
    folder = tmp_path / "new" / "folder"
    assert torch.equal(load_file(folder / "weights.safetensors")["w"], torch.zeros(3))
    assert json.loads((folder / "config.json").read_text("utf-8")) == {"a": 1}
    assert (folder / "note.txt").read_text("utf-8") == "old"
    assert len(list(folder.iterdir())) == 3


def test_stale_files_go_and_others_stay(tmp_path):
    replace_files(tmp_path, OLD | {"a.shard": "1", "b.shard": "2"})
    replace_files(tmp_path, {"b.shard": "3"}, stale=("*.shard",))
    assert set(snapshot(tmp_path)) == {*OLD, "b.shard"}
    assert (tmp_path / "b.shard").read_text("utf-8") == "3"


def test_object_that_cannot_be_written_changes_nothing(tmp_path):
    replace_files(tmp_path, OLD)
    before = snapshot(tmp_path)
    with pytest.raises(TypeError):
        replace_files(tmp_path, {"note.txt": "new", "config.json": {"bad": object()}})
    assert snapshot(tmp_path) == before and not list(tmp_path.glob(".*"))


TOO_MUCH = [{"large.txt": "x" * 10**6}, {"weights.safetensors": {"w": torch.ones(10**6)}}]


@pytest.mark.parametrize("large", TOO_MUCH, ids=["text", "tensors"])
def test_file_that_no_longer_fits_leaves_the_old_ones(large, tmp_path):
    replace_files(tmp_path, OLD)
    before = snapshot(tmp_path)

    def write():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
        replace_files(tmp_path, {"note.txt": "new"} | large)

    assert in_child(write) == 17
    assert snapshot(tmp_path) == before
    assert not list(tmp_path.glob(".*")), "the temporary folder is gone"


@pytest.fixture
def small_disk(tmp_path):
    """A 200 kB disk, if the tests may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("large", TOO_MUCH, ids=["text", "tensors"])
def test_full_disk_leaves_the_old_files(large, small_disk):
    replace_files(small_disk, OLD)
    before = snapshot(small_disk)
    assert in_child(lambda: replace_files(small_disk, {"note.txt": "new"} | large)) == 17
    assert snapshot(small_disk) == before
    assert not list(small_disk.glob(".*"))


def test_full_disk_leaves_the_old_checkpoint(small_disk):
    model = small_model()
    save_hf(model, small_disk)
    with pytest.raises(OSError, match=r"model\.safetensors"):
        save_hf(small_model(1, vocab_size=2000), small_disk)
    loaded = load_hf(small_disk)
    assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)


def test_locked_folder_is_an_error_and_stays_as_it_was(tmp_path):
    replace_files(tmp_path, OLD)
    before = snapshot(tmp_path)
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OSError):
            replace_files(tmp_path, {"note.txt": "new"})
    finally:
        tmp_path.chmod(0o700)
    assert snapshot(tmp_path) == before


def test_file_in_the_folders_place_is_an_error(tmp_path):
    (tmp_path / "taken").write_text("mine", "utf-8")
    with pytest.raises(OSError):
        replace_files(tmp_path / "taken", OLD)
    assert (tmp_path / "taken").read_text("utf-8") == "mine"


def kill_at(step, function):
    """Run a function that dies at a given flush, rename or removal of a file."""

    def counted(call):
        def counting(*arguments, **keywords):
            nonlocal step
            step -= 1
            if step < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **keywords)

        return counting

    os.replace, os.unlink, os.fsync = map(counted, (os.replace, os.unlink, os.fsync))
    function()


@pytest.mark.parametrize(
    ("before", "after"), [(10**9, 10**9), (60_000, 60_000), (60_000, 10**9), (10**9, 60_000)]
)
def test_killed_at_any_step_leaves_the_old_or_the_new_model(before, after, tmp_path):
    """Shards of the old and the new model never mix."""
    models = {"old": small_model(0), "new": small_model(1)}
    outcomes, exit_code = [], None
    while exit_code != 0:
        folder = tmp_path / str(len(outcomes))
        save_hf(models["old"], folder, max_shard_bytes=before)

        def save(folder=folder):
            save_hf(models["new"], folder, max_shard_bytes=after)

        exit_code = in_child(lambda: kill_at(len(outcomes), save))  # noqa: B023
        assert exit_code in (0, -signal.SIGKILL)
        state = load_hf(folder).state_dict()
        outcomes += [
            name
            for name, model in models.items()
            if all(torch.equal(state[k], v) for k, v in model.state_dict().items())
        ]
        assert len(outcomes) < 100
    assert len(outcomes) > 5
    assert outcomes == sorted(outcomes, reverse=True), "old up to some point, new after it"


def test_what_a_killed_process_left_is_cleared_later(tmp_path):
    left = tmp_path / ".writing-left"
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"half")
    replace_files(tmp_path, OLD)
    assert left.exists(), "it may belong to a process that is still writing"
    os.utime(left, (0, 0))
    replace_files(tmp_path, OLD)
    assert not left.exists()


def test_files_are_written_where_folders_cannot_be_opened(tmp_path, monkeypatch):
    refuse_like_windows(monkeypatch)
    replace_files(tmp_path, OLD)
    replace_files(tmp_path, {"note.txt": "new"}, stale=("*.json",))
    assert (tmp_path / "note.txt").read_bytes() == b"new"
    assert set(snapshot(tmp_path)) == {"weights.safetensors", "note.txt"}


def test_lines_end_alike_on_every_system(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "linesep", "\r\n")
    replace_files(tmp_path, {"note.txt": "a\nb\n", "config.json": {"a": 1}})
    assert (tmp_path / "note.txt").read_bytes() == b"a\nb\n"
    assert b"\r" not in (tmp_path / "config.json").read_bytes()


@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
@pytest.mark.parametrize("held", list(OLD))
def test_file_in_use_is_named_and_none_is_replaced(held, links, tmp_path, monkeypatch):
    replace_files(tmp_path, OLD)
    before = snapshot(tmp_path)
    refuse_like_windows(monkeypatch)
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    new = {"fresh.txt": "1", "weights.safetensors": {"w": torch.ones(3)}}
    with (tmp_path / held).open("rb"), pytest.raises(PermissionError, match=held):
        replace_files(tmp_path, new | {"config.json": {"a": 2}, "note.txt": "new"})
    assert snapshot(tmp_path) == before and not list(tmp_path.glob(".*"))


def no_links(*_):
    raise OSError(errno.ENOTSUP, "Operation not supported")


def test_mapped_weights_are_not_replaced_by_half(tmp_path, monkeypatch):
    replace_files(tmp_path, OLD)
    before = snapshot(tmp_path)
    refuse_like_windows(monkeypatch)
    path = tmp_path / "weights.safetensors"
    with safe_open(path, framework="pt"), pytest.raises(PermissionError, match="in use"):
        replace_files(tmp_path, {"config.json": {}, "weights.safetensors": {"w": torch.ones(3)}})
    assert snapshot(tmp_path) == before


def test_a_loaded_model_may_be_saved_where_it_came_from(tmp_path, monkeypatch):
    save_hf(small_model(), tmp_path)
    model = load_hf(tmp_path)
    refuse_like_windows(monkeypatch)
    save_hf(model, tmp_path)


@pytest.mark.parametrize("code", [errno.EACCES, errno.EINVAL])
def test_folders_that_cannot_be_flushed_are_left_alone(code, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "open", raising(code))
    sync_folder(tmp_path)


def test_disk_that_fails_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", raising(errno.EIO))
    with pytest.raises(OSError, match="EIO"):
        sync_folder(tmp_path)


def raising(code):
    def call(*_):
        raise OSError(code, errno.errorcode[code])

    return call
