"""Encoding in pieces gives the same tokens as encoding at once, with little memory."""

import tracemalloc

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers

from mini_moe.text import Tokenizer, default_tokenizer
from mini_moe.text.pieces import MOST_TRIES, encode_text, next_cut, split_at_gaps
from mini_moe.text.tokenizer import END_OF_TEXT, character_tokenizer, train_bpe

ALPHABET = "ab1'\"=.,s \n\t\r\x1c\u3000äß中文。😀"
TEXT = "It's 1 day,\n\n  two  words\r\n\tand == signs ==\n。中文 aaaa aa\n" * 20
# GPT-4's pattern, which attaches line ends to the punctuation before them.
GPT4 = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def trained(pre_tokenizer, normalizer=None):
    """Train a BPE on TEXT with another way of splitting text into words."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizer
    if normalizer:
        backend.normalizer = normalizer
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator([TEXT], trainer)
    return Tokenizer(backend)


BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
TOKENIZERS = {
    "shipped": default_tokenizer(),
    "bpe": train_bpe([TEXT], 300),
    "characters": character_tokenizer(ALPHABET + TEXT),
    "gpt4": trained(
        pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(GPT4), "isolated"), BYTES])
    ),
    "composed": trained(pre_tokenizers.ByteLevel(add_prefix_space=False), normalizers.NFC()),
    "no words": trained(BYTES),
}


@pytest.mark.parametrize("name", list(TOKENIZERS))
@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.text(ALPHABET) | st.sampled_from([TEXT[:60], "   ", "aaaaaaaa", "\n\n\n"])).map(
        "".join
    ),
    st.integers(1, 40),
)
def test_pieces_have_the_tokens_of_the_whole(name, text, size):
    tokenizer = TOKENIZERS[name]
    assert encode_text(tokenizer, text, size).tolist() == list(tokenizer.encode(text))


@pytest.mark.parametrize("name", list(TOKENIZERS))
def test_an_ordinary_text_has_the_tokens_of_the_whole(name):
    tokenizer = TOKENIZERS[name]
    for size in (1, 7, 50, 333):
        assert encode_text(tokenizer, TEXT, size).tolist() == list(tokenizer.encode(TEXT)), size


def test_a_run_longer_than_any_reach_stays_whole():
    tokenizer = TOKENIZERS["bpe"]
    for text in ("a" * 2000, " " * 2000 + "b", "b" + "\n" * 2000, "x" + "=" * 999 + "\ny"):
        assert encode_text(tokenizer, text, 100).tolist() == list(tokenizer.encode(text))


def test_characters_need_no_gap_to_be_cut_at():
    tokenizer = character_tokenizer("ACGT")
    assert next_cut(tokenizer, "ACGT" * 1000, 1001) == 1001


def test_a_tokenizer_that_allows_no_cut_gets_the_whole_text():
    class Marked(Tokenizer):
        def encode(self, text):
            return [1, *super().encode(text)]  # a token before every text

    text = "aa " * (2 * MOST_TRIES)
    assert next_cut(Marked(TOKENIZERS["bpe"]._backend), text, 3) == len(text)


def test_memory_is_bounded():
    text = "The quick brown fox jumps over the lazy dog; 0123456789.\n" * 20_000
    calls = []

    class Watched(Tokenizer):
        def encode(self, text):
            calls.append(len(text))
            return super().encode(text)

    tokenizer = Watched(default_tokenizer()._backend)
    tracemalloc.start()
    tokens = encode_text(tokenizer, text)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert max(calls) < 101_000 and tokens.dtype == np.uint16
    assert peak < 10 * len(text)


def test_large_vocabularies_have_wide_tokens():
    tokenizer = Tokenizer(TOKENIZERS["bpe"]._backend)
    tokenizer.vocab_size = 70_000
    assert encode_text(tokenizer, "a b").dtype == np.uint32


def test_an_unknown_character_is_named_by_its_place_in_the_whole_text():
    tokenizer = character_tokenizer("ab ")
    with pytest.raises(ValueError, match="'x' at position 900"):
        encode_text(tokenizer, "ab " * 300 + "x", 100)


@given(st.text(ALPHABET), st.integers(1, 20))
def test_pieces_for_training_join_to_the_text(text, size):
    assert "".join(split_at_gaps(text, size)) == text


def test_training_on_pieces_gives_the_same_tokenizer():
    pieces = list(split_at_gaps(TEXT, 10))
    assert len(pieces) > 50
    assert train_bpe(pieces, 300).to_json() == train_bpe([TEXT], 300).to_json()
