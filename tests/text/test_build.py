"""The corpus is built completely, reproducibly, and only when necessary."""

import json
import os

import numpy as np
import pytest

from mini_moe.text import DOMAINS, build, default_tokenizer, load_corpus, split_of
from mini_moe.text.build import build_corpus, gather, manifest_table, train_tokenizer
from tests.windows import refuse_like_windows

SCALE = 0.03


@pytest.fixture(scope="module")
def documents():
    return gather(0, SCALE)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("built") / "corpus"
    return folder, build_corpus(folder, scale=SCALE)


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix == ".npy"}


def test_every_domain_is_on_both_sides_where_there_is_enough(built):
    _, manifest = built
    assert tuple(manifest["domains"]) == DOMAINS
    for name in ("stories_en", "stories_de", "math", "tables"):
        assert manifest["domains"][name]["validation"]["documents"] > 0
    assert all(counts["train"]["tokens"] > 0 for counts in manifest["domains"].values())


def test_the_manifest_tells_the_truth(built, documents):
    folder, manifest = built
    corpus = load_corpus(folder)
    for number, (name, counts) in enumerate(manifest["domains"].items()):
        for side in ("train", "validation"):
            own = [d for d in documents if d.domain == name and split_of(d.id) == side]
            assert counts[side]["documents"] == len(own)
            assert counts[side]["bytes"] == sum(document.n_bytes for document in own)
            labels = np.asarray(getattr(corpus, side).domains)
            assert counts[side]["tokens"] == (labels == number).sum()
    table = manifest_table(manifest)
    assert all(name in table for name in (*DOMAINS, "validation", "sha256"))


def test_tokens_spell_the_documents(built, documents):
    corpus = load_corpus(built[0])
    texts = [d.text for d in documents if split_of(d.id) == "validation"]
    told = corpus.tokenizer.decode(corpus.validation.tokens)
    assert told == "".join(text + "<|endoftext|>" for text in texts)
    assert (np.asarray(corpus.validation.tokens) == 0).sum() == len(texts)


def test_a_label_changes_only_between_documents(built):
    split = load_corpus(built[0]).train
    changes = np.flatnonzero(np.diff(np.asarray(split.domains)))
    assert (np.asarray(split.tokens)[changes] == 0).all()


def test_the_same_seed_gives_the_same_files(built, tmp_path):
    build_corpus(tmp_path / "again", scale=SCALE)
    assert content(tmp_path / "again") == content(built[0])
    assert load_corpus(tmp_path / "again").fingerprint == load_corpus(built[0]).fingerprint
    build_corpus(tmp_path / "other", scale=SCALE, seed=1)
    assert content(tmp_path / "other") != content(built[0])


def test_no_text_is_on_both_sides(documents):
    sides = {side: set() for side in ("train", "validation")}
    for document in documents:
        sides[split_of(document.id)].add((document.domain, document.text))
    assert not sides["train"] & sides["validation"]


def test_an_existing_corpus_is_not_rebuilt(built, monkeypatch):
    folder, manifest = built
    monkeypatch.setattr(build, "gather", None)
    assert build_corpus(folder, scale=SCALE) == manifest
    with pytest.raises(TypeError):  # another seed requires a build
        build_corpus(folder, scale=SCALE, seed=1)
    with pytest.raises(TypeError):
        build_corpus(folder, scale=SCALE, force=True)


@pytest.mark.parametrize("change", ["tokenizer_sha256", "recipe_sha256", "python", "damage"])
def test_an_outdated_corpus_is_rebuilt(built, tmp_path, change):
    folder = tmp_path / "corpus"
    build_corpus(folder, scale=0.001)
    path = folder / "manifest.json"
    before = json.loads(path.read_text("utf-8"))
    if change == "damage":
        (folder / "train.tokens.npy").write_bytes(b"half")
    else:
        changed = before | {"recipe": before["recipe"] | {change: "old"}}
        path.write_text(json.dumps(changed), "utf-8")
    manifest = build_corpus(folder, scale=0.001)
    assert manifest["recipe"] == before["recipe"] and load_corpus(folder)


def test_a_failed_build_leaves_the_old_corpus_and_no_debris(tmp_path, monkeypatch):
    folder = tmp_path / "corpus"
    build_corpus(folder, scale=0.001)
    before = content(folder)

    def full_disk(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(build.np, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        build_corpus(folder, scale=0.001, seed=5)
    assert content(folder) == before and load_corpus(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]


def test_a_half_built_corpus_is_never_taken_for_a_whole_one(tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(build.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        build_corpus(tmp_path / "corpus", scale=0.001)
    assert not (tmp_path / "corpus").exists()
    with pytest.raises(FileNotFoundError):
        load_corpus(tmp_path / "corpus")


def test_a_corpus_in_use_is_named_and_stays(tmp_path, monkeypatch):
    folder = tmp_path / "corpus"
    build_corpus(folder, scale=0.001)
    before, corpus = content(folder), load_corpus(folder)
    refuse_like_windows(monkeypatch)
    with pytest.raises(PermissionError, match="close the notebooks"):
        build_corpus(folder, scale=0.001, seed=5)
    del corpus
    assert content(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]
    build_corpus(folder, scale=0.001, seed=5)
    assert content(folder) != before


def test_a_new_corpus_that_cannot_be_put_in_place_leaves_the_old(tmp_path, monkeypatch):
    folder = tmp_path / "corpus"
    build_corpus(folder, scale=0.001)
    before, real = content(folder), os.replace

    def refuse(source, target):
        if target == folder and not source.parent.name.startswith(".corpus-old"):
            raise OSError(5, "Input/output error")
        real(source, target)

    monkeypatch.setattr(build.os, "replace", refuse)
    with pytest.raises(OSError, match="Input/output"):
        build_corpus(folder, scale=0.001, seed=5)
    assert content(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]


def test_others_may_read_the_corpus(built):
    assert os.stat(built[0]).st_mode & 0o055 == 0o055


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan")])
def test_the_scale_must_be_positive(scale, tmp_path):
    with pytest.raises(ValueError, match="scale: expected a positive share"):
        build_corpus(tmp_path / "corpus", scale=scale)


def test_a_tokenizer_is_trained_equally_on_every_domain(documents):
    tokenizer = train_tokenizer(documents, 400)
    assert tokenizer.vocab_size == 400
    assert tokenizer.to_json() == train_tokenizer(documents, 400).to_json()


def test_the_committed_tokenizer_fits_the_domains(documents):
    tokenizer = default_tokenizer()
    limits = {"code": 2.6, "docs": 2.6, "stories_en": 3.0, "stories_de": 3.0}
    for name, least in limits.items():
        texts = [d.text for d in documents if d.domain == name]
        n_tokens = sum(map(len, tokenizer.encode_many(texts)))
        assert sum(len(text.encode()) for text in texts) / n_tokens > least, name
