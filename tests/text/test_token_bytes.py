"""Tokenizers of other kinds restore texts exactly, or are refused."""

import json

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken

from mini_moe.text import Tokenizer
from mini_moe.text.token_bytes import END_OF_TEXT, library_errors
from mini_moe.text.tokenizer import character_tokenizer, train_bpe
from tests.text.foreign_tokenizers import (
    BEGIN,
    END,
    LLAMA,
    METASPACE,
    PREFIX,
    WHITESPACE,
    changed,
    deepseek_like,
    with_added,
    with_vocabulary,
    word_level,
    word_piece,
)

DEEPSEEK = Tokenizer.from_json(deepseek_like().to_str(), END)
TEXTS = ["hello world", "", "  Hello\t", "e\u0301 é 日本", f"{BEGIN}a{END}", "<think> b </think>c"]
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]))
ANY_TEXT |= st.lists(st.sampled_from([BEGIN, END, "<think>", " ", "x"])).map("".join)


@settings(max_examples=200, deadline=None)
@given(ANY_TEXT)
def test_deepseeks_layout_gives_any_text_back_and_no_text_spells_its_ends(text):
    ids = DEEPSEEK.encode(text)
    assert DEEPSEEK.decode(ids) == text
    assert not {0, 1} & set(ids)


def test_ids_and_texts_are_those_of_the_library():
    library = deepseek_like()
    text = "hello world <think> test"
    assert DEEPSEEK.encode(text) == library.encode(text, add_special_tokens=False).ids
    for token_id in range(DEEPSEEK.vocab_size):
        assert DEEPSEEK.decode([token_id]) == library.decode([token_id], skip_special_tokens=False)
    assert (DEEPSEEK.end_of_text_id, DEEPSEEK.end_of_text) == (1, END)
    assert DEEPSEEK.pieces([0, 1]) == [BEGIN, END]


HOLES = with_vocabulary(zz=5000)
FOREIGN = {
    "NFC": changed(normalizer={"type": "NFC"}),
    "lower case": changed(normalizer={"type": "Lowercase"}),
    "swallowed blanks": with_added(AddedToken("<think>", lstrip=True, rstrip=True)),
    "special, swallowed blanks": with_added(AddedToken("<m>", lstrip=True, special=True)),
    "a byte's stand-in as added token": with_added(AddedToken("é")),
    "end that texts can spell": changed(added_tokens=[
        {"id": 1, "content": END, "special": False, "single_word": False, "lstrip": False,
         "rstrip": False, "normalized": False}
    ]),
    "two tokens of one id": with_vocabulary(zz=50),
    "holes": HOLES,
    "cut and padded": changed(
        truncation={"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    ),
    "ignore_merges": changed(model=json.loads(deepseek_like().to_str())["model"]
                             | {"ignore_merges": True}),
}  # fmt: skip
CHANGED_TEXTS = {
    "NFC": ["e\u0301 é 日本"],
    "lower case": ["  Hello\t"],
    "swallowed blanks": ["<think> b </think>c"],
    "end that texts can spell": [f"{BEGIN}a{END}"],
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_text_comes_back_or_is_refused(name):
    tokenizer = Tokenizer.from_json(FOREIGN[name], END)
    refused = []
    for text in TEXTS:
        try:
            assert tokenizer.decode(tokenizer.encode(text)) == text
        except ValueError as error:
            assert str(error).startswith("text")
            refused.append(text)
    assert refused == CHANGED_TEXTS.get(name, [])


def test_what_is_not_preserved_is_named():
    tokenizer = Tokenizer.from_json(FOREIGN["NFC"], END)
    with pytest.raises(
        ValueError, match="does not preserve 'e\u0301x' at position 4; it becomes 'éx'"
    ):
        tokenizer.encode("abc e\u0301x")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (changed(decoder=METASPACE), "ByteLevel decoder expected, got Metaspace"),
        (changed(decoder=None), "ByteLevel decoder expected, got NoneType"),
        (json.dumps(json.loads(changed()) | {"decoder": LLAMA}), "expected, got Sequence"),
        (word_level(), "ByteLevel decoder expected"),
        (word_piece(), "ByteLevel decoder expected, got WordPiece"),
        (changed(pre_tokenizer=PREFIX), "add_prefix_space=False expected"),
        (changed(pre_tokenizer=None), "does not preserve"),
        (
            json.dumps(json.loads(changed()) | {"pre_tokenizer": WHITESPACE}),
            "does not preserve ' world",
        ),
        (changed(normalizer={"type": "Prepend", "prepend": "x"}), "does not preserve"),
        (changed(model={"type": "BPE", "vocab": {}, "merges": []}, added_tokens=[]), "empty"),
        (changed(model={"continuing_subword_prefix": "##"}), "not a tokenizer file"),  # panics
        (changed(normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}), "not a tok"),
        (changed(model={"merges": [["a", "nope"]]}), "not a tokenizer file .*nope"),
        ("{}", "not a tokenizer file"),
        ("[", "not a tokenizer file"),
    ],
)
def test_another_kind_of_tokenizer_is_refused(content, words):
    with pytest.raises(ValueError, match=words):
        Tokenizer.from_json(content)


@pytest.mark.parametrize("end", ["nope", 999, -1, 5000])
def test_an_end_of_text_must_be_a_token(end):
    with pytest.raises(ValueError, match=f"end_of_text.*{end}"):
        Tokenizer.from_json(deepseek_like().to_str(), end)


def test_ids_between_the_tokens_are_refused_and_take_no_memory():
    tokenizer = Tokenizer.from_json(with_vocabulary(zz=4_000_000_000), END)
    assert tokenizer.vocab_size == 4_000_000_001 and tokenizer.decode([4_000_000_000]) == "zz"
    with pytest.raises(ValueError, match="ids: 5000 is not a token"):
        tokenizer.decode([5000])


@pytest.mark.parametrize("content", [HOLES, deepseek_like().to_str()])
def test_a_corpus_takes_no_tokenizer_with_another_end(content):
    with pytest.raises(ValueError, match="for a corpus, .*end_of_text_id=0 expected"):
        Tokenizer.from_json(content, END).encode_many(["hello"])
    large = Tokenizer.from_json(with_vocabulary(zz=70_000), 0)
    with pytest.raises(ValueError, match="at most 65536 entries .* got 70001 entries"):
        large.encode_many(["hello"])


@pytest.mark.parametrize(
    "own", [train_bpe(["hello world"], 260), character_tokenizer("hello world")]
)
def test_our_own_kinds_are_not_decoded_to_check(own):
    assert own._lossless
    again = Tokenizer.from_json(own.to_json())
    assert again._lossless and again.end_of_text == END_OF_TEXT
    assert Tokenizer.from_json(own.to_json(), 1).end_of_text_id == 0


@pytest.mark.parametrize("fault", ["two tokens of one id", "a suffix that ends words"])
def test_a_damaged_tokenizer_of_our_own_kind_is_checked(fault):
    content = json.loads(train_bpe(["hello world"], 260).to_json())
    if fault == "two tokens of one id":
        content["model"]["vocab"]["\u0120"] = content["model"]["vocab"]["x"]  # a blank
    else:
        content["model"]["end_of_word_suffix"] = "</w>"
    with pytest.raises(ValueError, match="does not preserve"):
        Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(content))).encode("x y")


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, MemoryError])
def test_interrupts_pass(error):
    with pytest.raises(error), library_errors("text"):
        raise error
