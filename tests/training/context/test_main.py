"""Two commands train the base model and extend its context; an error is one line."""

import json

import pytest

from mini_moe import load_hf, save_hf
from mini_moe.training.context import Phase
from mini_moe.training.context.__main__ import main
from tests.training.context.short_run import fresh

NAME = "mini_moe.training.context.__main__"


@pytest.fixture(autouse=True)
def small(corpus, monkeypatch):
    config = fresh(corpus).config
    phase = Phase(steps=20, seq_len=80, texts=1, rows=1)
    longer = Phase(steps=20, seq_len=200, texts=1, rows=1)
    monkeypatch.setattr(NAME + ".presets.needle", lambda: config)
    monkeypatch.setattr(NAME + ".BASE", (phase,))
    monkeypatch.setattr(NAME + ".LONGER", (phase, longer))


def test_base_then_extend_save_models_logs_and_tokenizers(tmp_path, capsys):
    base, longer = tmp_path / "base", tmp_path / "longer"
    assert main(["base", "--save", str(base), "--share", "0.5"]) == 0
    arguments = ["--checkpoint", str(base), "--save", str(longer), "--factor", "4"]
    assert main(["extend", *arguments, "--share", "0.5"]) == 0
    told = capsys.readouterr().out
    assert "step 10  length 80  text" in told and "stories_en" in told
    for folder, steps, factor in ((base, [10], 1), (longer, [10, 20], 4)):
        model = load_hf(folder)
        assert model.config.yarn_factor == factor and model.tokenizer is not None
        log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        assert [record["step"] for record in log] == steps and "validation" in log[-1]
    rope = json.loads((longer / "config.json").read_text())["rope_scaling"]
    assert (rope["factor"], rope["original_max_position_embeddings"]) == (4, 128)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["--factor", "1"], "factor=1.0 must be above 1"),
        (["--factor", "1.2"], "seq_len=200 is more than max_seq_len=154"),
        (["--checkpoint", "/nowhere"], "/nowhere"),
        (["--learning_rate", "0"], "learning_rate=0.0"),
        (["--share", "nan"], "share=nan"),
        (["--share", "inf"], "share=inf"),
    ],
)
def test_an_error_is_one_line(changes, said, corpus, tmp_path, capsys):
    save_hf(fresh(corpus), tmp_path / "old")
    arguments = ["--checkpoint", str(tmp_path / "old"), "--save", str(tmp_path / "new")]
    assert main(["extend", *arguments, *changes]) == 1
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not (tmp_path / "new" / "model.safetensors").exists()


def test_an_extended_model_is_not_extended_again(corpus, tmp_path, capsys):
    save_hf(fresh(corpus, yarn_factor=2.0), tmp_path / "old")
    arguments = ["--checkpoint", str(tmp_path / "old"), "--save", str(tmp_path / "new")]
    assert main(["extend", *arguments]) == 1
    assert "already extended, yarn_factor=2.0" in capsys.readouterr().err
