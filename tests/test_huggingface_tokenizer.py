"""A tokenizer is saved with its model; a model still loads if its tokenizer is unsupported."""

import json

import pytest

from mini_moe import generate, load_hf, save_hf
from mini_moe.text import default_tokenizer
from mini_moe.text.tokenizer import Tokenizer
from tests.helpers import small_model
from tests.text.foreign_tokenizers import (
    END,
    METASPACE,
    changed,
    deepseek_like,
    with_vocabulary,
    word_piece,
)


@pytest.fixture
def folder(tmp_path):
    """A checkpoint without a tokenizer, of a model with a vocabulary of 400."""
    save_hf(small_model(vocab_size=400), tmp_path)
    return tmp_path


def put(folder, tokenizer, **files):
    """Write tokenizer.json and other files; in existing files, replace only the given entries."""
    (folder / "tokenizer.json").write_text(tokenizer, encoding="utf-8")
    for name, content in files.items():
        path = folder / f"{name}.json"
        old = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(old | content))


def test_it_is_saved_and_removed_with_the_model(tmp_path):
    model = small_model(vocab_size=4096)
    model.tokenizer = default_tokenizer()
    save_hf(model, tmp_path)
    assert not (tmp_path / "tokenizer_config.json").exists()
    loaded = load_hf(tmp_path)
    text = "Routing – weißt du?"
    assert loaded.tokenizer.encode(text) == model.tokenizer.encode(text)
    model.tokenizer = None
    save_hf(model, tmp_path)
    assert load_hf(tmp_path).tokenizer is None


NAMED = {"eos_token": END}
FILES = [
    {"config": {"eos_token_id": 1}},
    {"config": {"eos_token_id": [1, 7]}},
    {"config": {"eos_token_id": 7}, "generation_config": {"eos_token_id": 1}},
    {"config": {"eos_token_id": 7}, "generation_config": {"eos_token_id": [1, 7]}},
    {"config": {"eos_token_id": 7}, "tokenizer_config": NAMED},
    {"generation_config": {"eos_token_id": 7}, "tokenizer_config": NAMED},
    {"tokenizer_config": {"eos_token": {"content": END, "__type": "AddedToken"}}},
]


@pytest.mark.parametrize("files", FILES, ids=str)
def test_the_end_of_text_is_read_and_written(files, folder):
    put(folder, deepseek_like().to_str(), **files)
    first = load_hf(folder)
    for model in (first, resaved(first, folder)):
        assert model.tokenizer.end_of_text_id == 1
        assert model.tokenizer.decode(model.tokenizer.encode("hello world")) == "hello world"
        assert isinstance(generate(model, "hello", 3), str)
    assert json.loads((folder / "config.json").read_text())["eos_token_id"] == 1


def resaved(model, folder):
    save_hf(model, folder)
    return load_hf(folder)


def test_no_end_of_text_is_none(folder):
    put(folder, deepseek_like().to_str(), config={"eos_token_id": None})
    assert load_hf(folder).tokenizer.end_of_text_id is None
    assert resaved(load_hf(folder), folder).tokenizer.end_of_text_id is None


def test_our_own_end_of_text_overrides_the_default_of_transformers(tmp_path):
    model = small_model(vocab_size=4096)
    model.tokenizer = default_tokenizer()
    save_hf(model, tmp_path)
    put(tmp_path, model.tokenizer.to_json(), config={"eos_token_id": 1})
    assert load_hf(tmp_path).tokenizer.end_of_text_id == 0


def test_a_foreign_tokenizer_does_not_outlive_its_model(folder):
    put(folder, deepseek_like().to_str(), tokenizer_config=NAMED)
    assert load_hf(folder).tokenizer.end_of_text_id == 1
    model = small_model(vocab_size=4096)
    model.tokenizer = default_tokenizer()
    save_hf(model, folder)
    assert load_hf(folder).tokenizer.end_of_text_id == 0


@pytest.mark.parametrize(
    ("content", "files", "words"),
    [
        (changed(decoder=METASPACE), {}, "ByteLevel decoder expected, got Metaspace"),
        (word_piece(), {}, "ByteLevel decoder expected, got WordPiece"),
        (changed(model={"continuing_subword_prefix": "##"}), {}, "not a tokenizer file"),  # panics
        ("{}", {}, "not a tokenizer file"),
        (with_vocabulary(zz=400), {}, "at most vocab_size=400 entries expected, got 401"),
        (changed(), {"config": {"eos_token_id": 999}}, "end_of_text_id: .* got 999"),
        (changed(), {"tokenizer_config": {"eos_token": "</s>"}}, "'</s>' is not a token"),
    ],
)
def test_the_model_loads_without_an_unsupported_tokenizer(content, files, words, folder):
    put(folder, content, **files)
    with pytest.warns(UserWarning, match=rf"model.tokenizer is None.*tokenizer.json.*{words}"):
        model = load_hf(folder)
    assert model.tokenizer is None
    assert len(generate(model, [1, 2, 3], 2)) == 2


def test_an_unreadable_settings_file_is_named(folder):
    put(folder, changed())
    (folder / "generation_config.json").write_text("{")
    with pytest.warns(UserWarning, match=r"generation_config.json is not JSON"):
        assert load_hf(folder).tokenizer is None


def test_the_vocabulary_may_be_smaller_than_the_models(folder):
    put(folder, changed(), config={"eos_token_id": 1})
    tokenizer = load_hf(folder).tokenizer
    assert isinstance(tokenizer, Tokenizer) and tokenizer.vocab_size < 400
