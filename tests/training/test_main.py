"""The command line has an option for every field and reports an error in one clear line."""

import dataclasses
import json
import re

import pytest
import torch

from mini_moe import ModelConfig, TrainConfig, generate
from mini_moe.huggingface import load_hf
from mini_moe.training.__main__ import convert, main
from tests.helpers import without_shape_hook
from tests.training.small_run import MODEL, TRAINING, as_options, sentences


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(sentences())
    return path


def run(text, *configurations, **more):
    return main(as_options({"text": text}, MODEL, TRAINING, *configurations, more))


def test_help_lists_every_field_of_both_configurations(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    offered = set(re.findall(r"--(\w+)", capsys.readouterr().out))
    fields = {f.name for config in (ModelConfig, TrainConfig) for f in dataclasses.fields(config)}
    assert fields | {"preset", "folder", "save", "text", "tokenizer"} <= offered


@pytest.mark.parametrize("preset", ["tiny", "small"])
def test_every_field_reaches_its_configuration(text, monkeypatch, preset):
    def note(model_config, train_config, corpus, *, folder, device):
        configs.extend((model_config, train_config))
        raise ValueError("enough")

    configs = []
    monkeypatch.setattr("mini_moe.training.__main__.train", note)
    wanted_model = ModelConfig(
        vocab_size=77, q_lora_rank=12, tie_embeddings=True, yarn_factor=2.0, init_std=0.05,
        score_function="softmax", expert_bias=False, group_score="max", norm_topk_prob=False,
        n_expert_groups=2, top_k_groups=2, n_mtp_layers=1, **MODEL,
    )  # fmt: skip
    wanted_train = TrainConfig(
        steps=3, optimizer="adamw", betas=(0.5, 0.25), bf16=True, grad_clip=0.0, seed=4
    )
    fields = [dataclasses.asdict(config) for config in (wanted_model, wanted_train)]
    fields[1]["betas"] = "0.5,0.25"
    assert main(["--preset", preset, *as_options({"text": text}, *fields)]) == 1
    assert configs == [wanted_model, wanted_train]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("None", None), ("True", True), ("False", False), ("7", 7), ("-7", -7), ("0.5", 0.5),
        ("1e-4", 1e-4), ("0.9,0.95", (0.9, 0.95)), ("muon", "muon"), ("a,b", "a,b"), ("", ""),
    ],
)  # fmt: skip
def test_options_become_numbers_pairs_or_words(given, expected):
    assert convert(given) == expected and type(convert(given)) is type(expected)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"steps": 0}, "steps=0 must be at least 1"),
        ({"steps": 2.5}, "steps=2.5"),
        ({"learning_rate": "fast"}, "learning_rate='fast'"),
        ({"learning_rate": "nan"}, "learning_rate=nan"),
        ({"betas": "0.9"}, "betas=0.9"),
        ({"betas": "a,b"}, "betas='a,b'"),
        ({"optimizer": "sgd"}, "optimizer='sgd'"),
        ({"top_k": 9}, "top_k=9"),
        ({"device": "gpu"}, "device: 'auto', 'cpu', 'cuda' or 'mps' expected, got 'gpu'"),
        ({"vocab_size": 3}, "vocab_size=3 is smaller than the tokenizer's"),
        ({"seq_len": 64}, "seq_len=64 is more than max_seq_len=32"),
        ({"seq_len": 9000, "max_seq_len": 9000}, "seq_len=9000 needs rows of 9001 tokens"),
        ({"learning_rate": 1e9, "adamw_learning_rate": 1e9, "weight_decay": 1e9}, "step"),
    ],
)
def test_bad_values_end_in_one_line(text, capsys, changes, said):
    with without_shape_hook():
        assert run(text, changes) == 1
    printed = capsys.readouterr()
    line = printed.err.split("\r")[-1]  # the progress bar's earlier output is erased
    assert "error: " in line and said in line and "Traceback" not in printed.err
    assert line.count("\n") == 1 and printed.out == ""


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no file"),
        (b"", "empty"),
        (b"a", "at least 2 characters"),
        (b"short", "needs rows of 17 tokens"),
        (b"caf\xe9 " * 50, "not UTF-8"),
    ],
)
def test_bad_texts_end_in_one_line(tmp_path, capsys, content, said):
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    assert run(path, save=tmp_path / "model") == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and said in error and error.count("\n") == 1


def test_a_folder_in_the_way_is_found_before_training(text, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("mini_moe.training.__main__.train", lambda *_, **__: pytest.fail("trained"))
    (tmp_path / "taken").write_text("a file")
    assert run(text, save=tmp_path / "taken") == 1
    assert "taken" in capsys.readouterr().err


def test_unknown_options_are_named_without_listing_all(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--stepz", "3"])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and "--stepz" in error and error.count("\n") <= 3


@pytest.mark.parametrize("tokenizer", ["char", "bpe"])
def test_save_writes_a_model_to_load_and_its_log(text, tmp_path, capsys, tokenizer):
    folder = tmp_path / "deep" / "model"
    assert run(text, {"eval_every": 4}, save=folder, tokenizer=tokenizer) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [["step", "4"], ["step", "6"]]
    assert all("text " in line and "all " in line for line in lines)
    model = load_hf(folder)
    assert model.tokenizer.vocab_size == model.config.vocab_size
    assert isinstance(generate(model, "the cat", max_new_tokens=3), str)
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in log] == [1, 2, 3, 4, 5, 6]
    assert all(torch.isfinite(t).all() for t in model.state_dict().values())


def test_a_second_start_continues_and_prints_the_same(text, tmp_path, capsys):
    options = {"folder": tmp_path / "run", "save": tmp_path / "model"}
    assert run(text, options) == 0
    first = capsys.readouterr().out
    assert run(text, options) == 0
    assert capsys.readouterr().out == first
    assert run(text, options, seed=3) == 1
    assert "seed=3 differs from the interrupted run's 0" in capsys.readouterr().err
