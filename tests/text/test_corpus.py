"""A corpus loads completely or not at all, and any text can replace it."""

import dataclasses
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mini_moe.text import (
    Corpus,
    Split,
    default_tokenizer,
    load_corpus,
    sample_batch,
    split_of,
    windows,
)
from mini_moe.text.build import build_text
from mini_moe.text.corpus import read_manifest, read_text, token_stream

TEXT = "Es war einmal ein König, der hatte drei Töchter.\n" * 40


@pytest.fixture
def text_file(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.fixture
def folder(text_file, tmp_path):
    build_text(tmp_path / "corpus", Corpus.from_text(text_file))
    return tmp_path / "corpus"


def test_about_one_document_in_twenty_validates():
    sides = [split_of(f"math/{n}") for n in range(20_000)]
    assert 0.045 < sides.count("validation") / len(sides) < 0.055
    assert set(sides) == {"train", "validation"}


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_the_fraction_moves_documents_one_way(document_id):
    assert split_of(document_id, 0.0) == "train"
    assert split_of(document_id, 1.0) == "validation"
    if split_of(document_id, 0.05) == "validation":
        assert split_of(document_id, 0.5) == "validation"


def test_the_side_is_fixed_for_all_time():
    numbers = [n for n in range(60) if split_of(f"docs/{n}") == "validation"]
    assert numbers == [3, 22, 50]


def test_documents_end_with_the_end_of_text_of_their_domain():
    tokens, domains = token_stream([np.array([5, 6], np.uint16), np.array([7], np.uint16)], [2, 1])
    assert tokens.tolist() == [5, 6, 0, 7, 0] and tokens.dtype == np.uint16
    assert domains.tolist() == [2, 2, 2, 1, 1] and domains.dtype == np.uint8


def test_no_documents_make_an_empty_stream():
    tokens, domains = token_stream([], [])
    assert len(tokens) == len(domains) == 0


def test_text_is_split_by_position(text_file):
    corpus = Corpus.from_text(text_file)
    cut = len(TEXT) * 9 // 10
    assert corpus.tokenizer.decode(corpus.train.tokens) == TEXT[:cut]
    assert corpus.tokenizer.decode(corpus.validation.tokens) == TEXT[cut:]
    assert corpus.domain_names == ("text",) and set(corpus.train.domains.tolist()) == {0}
    assert corpus.train.n_bytes + corpus.validation.n_bytes == len(TEXT.encode())


def test_text_becomes_bpe_too(text_file):
    corpus = Corpus.from_text(text_file, tokenizer="bpe", vocab_size=300)
    assert corpus.tokenizer.vocab_size <= 300
    assert corpus.train.n_tokens < Corpus.from_text(text_file).train.n_tokens
    assert corpus.tokenizer.decode(corpus.validation.tokens) == TEXT[len(TEXT) * 9 // 10 :]
    assert corpus.bytes_per_token == corpus.validation.bytes_per_token > 1.5


def test_text_takes_a_given_tokenizer(text_file):
    tokenizer = default_tokenizer()
    assert Corpus.from_text(text_file, tokenizer).tokenizer is tokenizer


@settings(max_examples=30, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=2))
def test_any_text_of_two_characters_is_a_corpus(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("any") / "text.txt"
    path.write_bytes(text.encode())
    corpus = Corpus.from_text(path)
    ids = [*corpus.train.tokens, *corpus.validation.tokens]
    assert corpus.tokenizer.decode(ids) == text


def test_line_ends_stay_as_they_are(tmp_path):
    (tmp_path / "dos.txt").write_bytes(b"a\r\nb\rc")
    assert read_text(tmp_path / "dos.txt") == "a\r\nb\rc"


def test_bad_texts_are_refused(tmp_path):
    path = tmp_path / "bad.txt"
    with pytest.raises(FileNotFoundError, match="no file at .*bad.txt"):
        Corpus.from_text(path)
    with pytest.raises(FileNotFoundError):
        Corpus.from_text(tmp_path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="bad.txt is empty"):
        Corpus.from_text(path)
    path.write_bytes(b"x")
    with pytest.raises(ValueError, match="at least 2 characters, got 1"):
        Corpus.from_text(path)
    path.write_bytes("Gruß".encode("latin-1"))
    with pytest.raises(ValueError, match="not UTF-8 .byte 0xdf at position 3"):
        Corpus.from_text(path)


def test_an_unknown_kind_of_tokenizer_is_refused(text_file):
    with pytest.raises(ValueError, match="word"):
        Corpus.from_text(text_file, tokenizer="word")


def test_a_text_shorter_than_a_row_names_both_lengths(tmp_path):
    (tmp_path / "short.txt").write_text("short text", "utf-8")
    corpus = Corpus.from_text(tmp_path / "short.txt")
    with pytest.raises(ValueError, match="needs 65 tokens, but the text has only 9"):
        sample_batch(corpus.train, batch=1, length=65, seed=0, step=0)


def test_a_stored_corpus_is_the_one_in_memory(folder, text_file):
    stored, fresh = load_corpus(folder), Corpus.from_text(text_file)
    for side in ("train", "validation"):
        one, other = getattr(stored, side), getattr(fresh, side)
        assert isinstance(one.tokens, np.memmap)
        assert one.tokens.dtype == np.uint16 and one.domains.dtype == np.uint8
        assert np.array_equal(one.tokens, other.tokens) and one.n_bytes == other.n_bytes
    assert windows(stored.validation, 9).counted.sum() == stored.validation.n_tokens - 1
    assert stored.tokenizer.encode("König") == fresh.tokenizer.encode("König")


def test_the_fingerprint_depends_only_on_the_content(folder, text_file, tmp_path):
    stored, fresh = load_corpus(folder), Corpus.from_text(text_file)
    assert stored.fingerprint == fresh.fingerprint
    renamed = text_file.rename(tmp_path / "other name.txt")
    assert Corpus.from_text(renamed).fingerprint == fresh.fingerprint
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    (folder / "manifest.json").write_text(json.dumps(manifest | {"seconds": 9}), "utf-8")
    assert load_corpus(folder).fingerprint == fresh.fingerprint


def test_the_fingerprint_changes_with_the_content(text_file):
    corpus = Corpus.from_text(text_file)
    tokens, domains = corpus.train.tokens.copy(), corpus.train.domains.copy()
    tokens[5] += 1
    domains[5] += 1
    n_bytes = corpus.train.n_bytes
    others = [
        replace(corpus, train=Split(tokens, corpus.train.domains, n_bytes)),
        replace(corpus, train=Split(corpus.train.tokens, domains, n_bytes)),
        replace(corpus, train=corpus.validation, validation=corpus.train),
        replace(corpus, domain_names=("other",)),
        replace(corpus, tokenizer=default_tokenizer()),
    ]
    assert len({corpus.fingerprint, *(other.fingerprint for other in others)}) == 6


def test_domains_have_their_own_counts(folder):
    corpus = load_corpus(folder)
    part = corpus.domain("text")
    assert part.n_tokens == corpus.validation.n_tokens
    assert corpus.validation_by_domain["text"].n_bytes == corpus.validation.n_bytes
    assert corpus.domain("text", "train").n_bytes == corpus.train.n_bytes
    with pytest.raises(ValueError, match="'poems'"):
        corpus.domain("poems")
    with pytest.raises(ValueError, match="'test'"):
        corpus.domain("text", "test")


def test_an_unbuilt_corpus_names_the_command(tmp_path):
    with pytest.raises(FileNotFoundError, match="python -m mini_moe.text"):
        load_corpus(tmp_path)
    assert read_manifest(tmp_path) is None


@pytest.mark.parametrize("name", ["train.tokens.npy", "validation.domains.npy", "tokenizer.json"])
def test_a_corpus_with_a_missing_or_cut_file_is_refused(folder, name):
    raw = (folder / name).read_bytes()
    (folder / name).write_bytes(raw[:-2])
    with pytest.raises(ValueError, match=f"{name}: expected {len(raw)} bytes"):
        load_corpus(folder)
    (folder / name).unlink()
    with pytest.raises(ValueError, match=f"{name}: expected {len(raw)} bytes, got None"):
        load_corpus(folder)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"files": 3}', '{"files": {"x": "y"}}'])
def test_a_broken_manifest_is_refused(folder, content):
    (folder / "manifest.json").write_text(content, "utf-8")
    with pytest.raises(ValueError, match="manifest"):
        load_corpus(folder)


def test_a_manifest_of_other_tokens_is_refused(folder):
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    manifest["domains"]["text"]["train"]["tokens"] += 1
    (folder / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    with pytest.raises(ValueError, match="its manifest says"):
        load_corpus(folder)


def test_the_fingerprint_covers_what_a_run_reads(text_file, folder, tmp_path):
    corpus, copy = Corpus.from_text(text_file), tmp_path / "copy.txt"
    copy.write_bytes(text_file.read_bytes())
    assert Corpus.from_text(copy).fingerprint == corpus.fingerprint
    assert (
        load_corpus(folder).fingerprint == corpus.fingerprint
    )  # from another folder, memory-mapped


@pytest.mark.parametrize(
    "change",
    [
        lambda c: {"train": c.validation, "validation": c.train},
        lambda c: {"train": dataclasses.replace(c.train, tokens=c.train.tokens[::-1])},
        lambda c: {"train": dataclasses.replace(c.train, domains=c.train.domains + 1)},
        lambda c: {"domain_names": ("tale",)},
        lambda c: {"tokenizer": default_tokenizer()},
    ],
)
def test_different_tokens_domains_or_tokenizer_change_the_fingerprint(text_file, change):
    corpus = Corpus.from_text(text_file)
    assert dataclasses.replace(corpus, **change(corpus)).fingerprint != corpus.fingerprint
