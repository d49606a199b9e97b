"""The command line builds what it is asked to and explains what it cannot do."""

import hashlib

import numpy as np
import pytest

from mini_moe.text import __main__ as program
from mini_moe.text import data_folder, load_corpus

TEXT = "To be, or not to be, that is the question.\n" * 30


@pytest.fixture
def text_file(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT, "utf-8")
    return tmp_path / "text.txt"


@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_any_text_becomes_a_corpus(kind, text_file, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["--text", str(text_file), "--tokenizer", kind, "--vocab-size", "280"]
    assert program.main([*arguments, "--out", str(out)]) == 0
    corpus = load_corpus(out)
    tokens = np.concatenate([corpus.train.tokens, corpus.validation.tokens])
    assert corpus.tokenizer.decode(tokens) == TEXT
    printed = capsys.readouterr().out
    assert "text" in printed and "validation" in printed and str(out) in printed


def test_an_address_is_downloaded_first(text_file, tmp_path, monkeypatch, capsys):
    digest = hashlib.sha256(TEXT.encode()).hexdigest()
    asked = []
    monkeypatch.setattr(program, "download", lambda *request: asked.append(request) or text_file)
    out = tmp_path / "out"
    assert program.main(["--url", "http://x/t", "--sha256", digest, "--out", str(out)]) == 0
    assert asked == [("http://x/t", digest, data_folder() / "downloads" / f"{digest[:16]}.txt")]
    assert load_corpus(out).manifest["domains"]["text"]["sha256"] == digest


def test_the_default_builds_the_domains_with_the_seed(tmp_path, monkeypatch, capsys):
    asked = {}

    def fake(folder, **options):
        asked.update(options, folder=folder)
        return {"domains": {}}

    monkeypatch.setattr(program, "build_corpus", fake)
    assert program.main(["--seed", "7", "--out", str(tmp_path / "o")]) == 0
    assert asked == {"seed": 7, "force": False, "folder": tmp_path / "o"}


def test_mistakes_end_in_one_line(tmp_path, capsys):
    (tmp_path / "bad.txt").write_bytes(b"ab\xff")
    out = ["--out", str(tmp_path / "out")]
    for name, said in (("none.txt", "no file"), ("bad.txt", "not UTF-8")):
        assert program.main(["--text", str(tmp_path / name), *out]) == 1
        printed = capsys.readouterr()
        assert printed.err.startswith("error: ") and said in printed.err
        assert printed.err.count("\n") == 1 and printed.out == ""
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--text", "a", "--url", "http://x", "--sha256", "0"], "can't be combined"),
        (["--url", "http://x"], "must be given together"),
        (["--sha256", "0"], "must be given together"),
        (["--text", "a"], "need --out"),
        (["--tokenizer", "words"], "invalid choice"),
        (["--seed", "x"], "invalid int"),
    ],
)
def test_contradictions_are_refused(arguments, said, capsys):
    with pytest.raises(SystemExit) as stop:
        program.main(arguments)
    assert stop.value.code == 2 and said in capsys.readouterr().err
