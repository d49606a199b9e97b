"""Tokens from any tokenizer are shown as readable text."""

import pytest
import tokenizers
from tokenizers import decoders, models
from transformers import PreTrainedTokenizerFast

from mini_moe.routing import trace_routing
from mini_moe.routing.inputs import pieces_of
from mini_moe.text import data_folder, default_tokenizer
from tests.helpers import small_model
from tests.routing.foreign_models import random_model


@pytest.fixture(scope="module")
def byte_level():
    """Our own byte-level vocabulary, loaded by transformers."""
    return PreTrainedTokenizerFast(tokenizer_file=str(data_folder() / "tokenizer.json"))


def sentence_piece():
    """Build a vocabulary like Mixtral's: ▁ for a space, <0x0A> for a byte."""
    vocabulary = {"<unk>": 0, "▁the": 1, "▁fox": 2, "<0x0A>": 3, "<0xC3>": 4, "ü": 5}
    backend = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback()])
    return PreTrainedTokenizerFast(tokenizer_object=backend)


TEXT = "The fox — der Fuchs läuft.\n\tx = 1 🦊"


def test_a_transformers_tokenizer_encodes_and_displays_like_ours(byte_level):
    model = random_model("Mixtral", vocab_size=4096, num_local_experts=4)
    trace = trace_routing(model, TEXT, tokenizer=byte_level)
    ours = default_tokenizer()
    assert trace.tokens.tolist() == byte_level.encode(TEXT) == ours.encode(TEXT)
    assert trace.pieces == ours.pieces(trace.tokens.tolist())
    assert trace_routing(model, TEXT, tokenizer=ours).pieces == trace.pieces


def test_our_models_also_accept_other_tokenizers(byte_level):
    trace = trace_routing(small_model(vocab_size=4096), [TEXT, "Haus"], tokenizer=byte_level)
    assert "".join(trace.take(trace.text_ids == 1).pieces) == "Haus"


def test_sentence_pieces_show_spaces_and_bytes():
    shown = pieces_of([1, 2, 3, 4, 5, 0], sentence_piece())
    assert shown == ["·the", "·fox", "⏎", "⟨c3⟩", "ü", "<unk>"]


def test_special_tokens_are_shown_literally(byte_level):
    assert pieces_of([0], byte_level) == ["<|endoftext|>"]


def test_without_a_tokenizer_pieces_are_numbers():
    assert pieces_of([7, 12], None) == ["7", "12"]


def test_an_id_beyond_the_tokenizer_shows_as_its_number(byte_level):
    assert pieces_of([4096], byte_level) == ["4096"]


@pytest.mark.parametrize("text", ["words", [1, 2]])
def test_anything_but_a_tokenizer_is_named(text):
    with pytest.raises(ValueError, match="tokenizer: one of this package or of transformers"):
        trace_routing(small_model(), text, tokenizer=object())


def test_an_empty_text_is_refused_although_a_tokenizer_would_mark_its_start(byte_level):
    with pytest.raises(ValueError, match="empty text"):
        trace_routing(small_model(vocab_size=4096), "", tokenizer=byte_level)
