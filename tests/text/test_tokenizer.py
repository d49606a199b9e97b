"""The tokenizer loses nothing, never spells the end of text, and shows every piece."""

import json

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from mini_moe.text import Tokenizer, default_tokenizer
from mini_moe.text.tokenizer import (
    END_OF_TEXT,
    END_OF_TEXT_ID,
    character_tokenizer,
    readable,
    train_bpe,
)

TOKENIZER = default_tokenizer()
CHARACTERS = character_tokenizer("Grüße,\n\tWelt! <|endoftext|> 日本")
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]))


def test_vocabulary_has_4096_entries():
    assert TOKENIZER.vocab_size == 4096


@settings(max_examples=300, deadline=None)
@given(ANY_TEXT)
def test_any_text_comes_back(text):
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


@settings(max_examples=300, deadline=None)
@given(st.binary())
def test_any_bytes_read_as_text_come_back(raw):
    text = raw.decode("latin-1")
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


@settings(max_examples=200, deadline=None)
@given(ANY_TEXT, ANY_TEXT)
def test_the_end_of_text_cannot_be_spelled(before, after):
    ids = TOKENIZER.encode(before + END_OF_TEXT + after)
    assert END_OF_TEXT_ID not in ids
    assert TOKENIZER.decode(ids) == before + END_OF_TEXT + after


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, TOKENIZER.vocab_size - 1)))
def test_any_ids_decode_and_show(ids):
    pieces = TOKENIZER.pieces(ids)
    assert len(pieces) == len(ids) and all(pieces)
    assert all(piece.isprintable() for piece in pieces)
    assert TOKENIZER.decode(ids) == b"".join(TOKENIZER.token_bytes(ids)).decode(errors="replace")


def test_decode_agrees_with_the_library():
    text = "def f(x):\n\treturn x + 1  # Größe 日本"
    library = tokenizers.Tokenizer.from_str(TOKENIZER.to_json())
    assert library.decode(TOKENIZER.encode(text)) == text


def test_many_texts_encode_as_one_does():
    texts = ["", "Es war einmal", "3 + 4 = 7", "a <|endoftext|> b"]
    assert [list(ids) for ids in TOKENIZER.encode_many(texts)] == [*map(TOKENIZER.encode, texts)]


def test_every_digit_is_a_token():
    assert TOKENIZER.pieces(TOKENIZER.encode("2024+7")) == ["2", "0", "2", "4", "+", "7"]


def test_pieces_show_blanks_and_lone_bytes():
    assert TOKENIZER.pieces(TOKENIZER.encode("x\n")) == ["x", "⏎"]
    assert readable(b" a\t") == "·a⇥"
    assert readable("ä".encode()[:1]) == "⟨c3⟩"
    assert readable(b"\x00\x7f") == "␀␡"
    assert TOKENIZER.pieces([0]) == [END_OF_TEXT]


@pytest.mark.parametrize("tokenizer", [TOKENIZER, CHARACTERS])
def test_lone_surrogates_are_refused_by_position(tokenizer):
    with pytest.raises(ValueError, match=r"lone surrogate '\\ud800' at position 2"):
        tokenizer.encode("We\ud800")


@pytest.mark.parametrize("wrong", [-1, 4096])
def test_ids_outside_the_vocabulary_are_refused(wrong):
    with pytest.raises(ValueError, match=f"vocab_size=4096, got {wrong}"):
        TOKENIZER.decode([5, wrong])


@pytest.mark.parametrize("tokenizer", [TOKENIZER, CHARACTERS])
def test_saved_and_loaded_it_is_the_same(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "folder" / "tokenizer.json")
    again = Tokenizer.load(tmp_path / "folder" / "tokenizer.json")
    text = "Grüße, Welt!"
    assert again.encode(text) == tokenizer.encode(text)
    assert again.decode(again.encode(text)) == text
    assert again.vocab_size == tokenizer.vocab_size
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["tokenizer.json"]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.json"):
        Tokenizer.load(tmp_path / "nowhere.json")


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"model": 3}', b"\xff\xfe", b"null"],
)
def test_a_corrupt_file_is_named(content, tmp_path):
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="broken.json"):
        Tokenizer.load(path)


def test_a_truncated_file_is_refused(tmp_path):
    whole = TOKENIZER.to_json()
    path = tmp_path / "half.json"
    path.write_text(whole[: len(whole) // 2], "utf-8")
    with pytest.raises(ValueError, match="half.json is not a tokenizer file"):
        Tokenizer.load(path)


def test_a_foreign_tokenizer_is_refused(tmp_path):
    content = json.loads(character_tokenizer("ab").to_json())
    content["model"]["vocab"] = {"a": 0, "b": 1}
    (tmp_path / "foreign.json").write_text(json.dumps(content), "utf-8")
    with pytest.raises(ValueError, match="expected id 0 to be '<|endoftext|>', got 'a'"):
        Tokenizer.load(tmp_path / "foreign.json")


def test_training_gives_the_same_merges_every_time():
    texts = ["der Hund und die Katze", "the dog and the cat"] * 9
    assert train_bpe(texts, 300).to_json() == train_bpe(list(texts), 300).to_json()


def test_training_merges_what_is_frequent():
    tokenizer = train_bpe(["banana banana banana"] * 9, 262)
    assert len(tokenizer.encode("banana")) < 6


@pytest.mark.parametrize("size", [0, 256, 65_537])
def test_impossible_vocabulary_sizes_are_refused(size):
    with pytest.raises(ValueError, match=f"vocab_size: expected 257 to 65536, got {size}"):
        train_bpe(["text"], size)


def test_characters_are_numbered_in_order_after_the_end_of_text():
    tokenizer = character_tokenizer("banana\n")
    assert tokenizer.vocab_size == 5
    assert tokenizer.encode("\nabn") == [1, 2, 3, 4]


@settings(max_examples=100, deadline=None)
@given(st.text(st.sampled_from("Grüße,\n\tWelt! <|endoftext|> 日本")))
def test_characters_come_back_one_token_each(text):
    ids = CHARACTERS.encode(text)
    assert len(ids) == len(text) and CHARACTERS.decode(ids) == text
    assert END_OF_TEXT_ID not in ids


def test_unknown_characters_are_named():
    with pytest.raises(ValueError, match="got 'z' at position 0"):
        CHARACTERS.encode("zebra")


def test_no_characters_make_no_tokenizer():
    with pytest.raises(ValueError, match="empty text"):
        character_tokenizer("")
