"""The command line writes what `generate` writes, and reports bad input in one line."""

import subprocess
import sys

import pytest

from mini_moe import generate, load_hf, save_hf
from mini_moe.inference.__main__ import main
from mini_moe.text.tokenizer import train_bpe
from tests.helpers import small_model


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Save a small model and its tokenizer to a folder."""
    folder = tmp_path_factory.mktemp("checkpoint")
    model = small_model(vocab_size=270, n_mtp_layers=1)
    model.tokenizer = train_bpe(["the cat sat on the mat, the cat sat"], vocab_size=270)
    save_hf(model, folder)
    return folder


def run(checkpoint, *arguments):
    return main(["--checkpoint", str(checkpoint), *arguments])


@pytest.mark.parametrize("ahead", ["0", "2"])
def test_the_prompt_and_its_continuation_are_printed(checkpoint, capsys, ahead):
    arguments = ["--prompt", "the cat", "--temperature", "0", "--max_new_tokens", "12"]
    assert run(checkpoint, *arguments, "--ahead", ahead) == 0
    model = load_hf(checkpoint)
    text = generate(model, "the cat", 12, temperature=0.0, stop_token=0)
    assert capsys.readouterr() == ("the cat" + text + "\n", "")


def test_the_device_can_be_named_and_must_exist(checkpoint, capsys):
    arguments = ["--prompt", "the cat", "--temperature", "0", "--max_new_tokens", "4"]
    assert run(checkpoint, *arguments, "--device", "cpu") == 0
    assert capsys.readouterr().out.startswith("the cat")
    assert run(checkpoint, *arguments, "--device", "abacus") == 1
    assert "device: 'auto', 'cpu', 'cuda' or 'mps' expected" in capsys.readouterr().err


def test_a_text_stops_before_its_stop_string(checkpoint, capsys):
    arguments = ["--prompt", "the", "--seed", "1", "--max_new_tokens", "30"]
    run(checkpoint, *arguments)
    whole = capsys.readouterr().out.rstrip("\n").removeprefix("the")
    run(checkpoint, *arguments, "--stop", whole[8:11])
    assert capsys.readouterr().out == "the" + whole[: whole.index(whole[8:11])] + "\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompt", ""], "empty prompt"),
        (["--prompt", "the cat" * 40], "at most max_seq_len=64 tokens"),
        (["--prompt", "a", "--temperature", "-1"], "temperature=-1.0"),
        (["--prompt", "a", "--max_new_tokens", "-1"], "max_new_tokens=-1"),
        (["--prompt", "a", "--ahead", "-1"], "ahead=-1"),
        (["--prompt", "a", "--stop", ""], "stop: non-empty strings"),
        (["--prompt", "a", "--checkpoint", "/nowhere"], "/nowhere"),
    ],
)
def test_bad_input_is_reported_in_one_line(checkpoint, capsys, arguments, message):
    assert run(checkpoint, *arguments) == 1
    printed = capsys.readouterr()
    assert printed.out == "" and message in printed.err
    assert printed.err.startswith("error: ") and printed.err.count("\n") == 1


def test_a_checkpoint_without_a_tokenizer_is_named(tmp_path, capsys):
    save_hf(small_model(), tmp_path)
    assert run(tmp_path, "--prompt", "a") == 1
    assert "no tokenizer" in capsys.readouterr().err


def test_an_interruption_ends_quietly(checkpoint, capsys, monkeypatch):
    def interrupted(*_, **__):
        yield from ()
        raise KeyboardInterrupt

    monkeypatch.setattr("mini_moe.inference.__main__.stream", interrupted)
    assert run(checkpoint, "--prompt", "a") == 130
    assert capsys.readouterr() == ("a\n", "")


def test_the_module_runs_as_a_command(checkpoint):
    command = [sys.executable, "-m", "mini_moe.inference", "--checkpoint", str(checkpoint)]
    done = subprocess.run(
        [*command, "--prompt", "the", "--max_new_tokens", "3"], capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout.startswith("the") and done.stderr == ""
