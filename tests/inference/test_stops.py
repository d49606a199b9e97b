"""Text comes out in whole characters, and never any part of a stop string."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mini_moe.inference.stops import TextStream, begun, stop_strings
from mini_moe.text.tokenizer import train_bpe

TOKENIZER = train_bpe(["aab ab aba abab 你好 the cat"], vocab_size=275)


def streamed(ids, stops=()):
    """Return all pieces of the text, and whether a stop string ended it."""
    stream = TextStream(TOKENIZER, stops)
    pieces = []
    for token in ids:
        pieces.append(stream.add(token))
        if stream.stopped:
            break
    return [*pieces, stream.end()], stream.stopped


def first_complete(text, stops):
    """Return the start of the first stop string to be completed, by trying every end position."""
    for end in range(1, len(text) + 1):
        starts = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if starts:
            return min(starts)
    return None


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, TOKENIZER.vocab_size - 1), max_size=20))
def test_pieces_of_any_tokens_join_to_the_decoded_text(ids):
    pieces, stopped = streamed(ids)
    assert "".join(pieces) == TOKENIZER.decode(ids) and not stopped


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.text("ab ", max_size=25), st.lists(st.text("ab ", min_size=1, max_size=4), max_size=3))
def test_text_ends_before_the_first_complete_stop_string(text, stops):
    pieces, stopped = streamed(TOKENIZER.encode(text), stops)
    cut = first_complete(text, stops)
    assert stopped == (cut is not None)
    assert "".join(pieces) == text[:cut]


def test_no_piece_contains_part_of_a_character_or_of_a_stop_string():
    ids = TOKENIZER.encode("x你y") + TOKENIZER.encode("stop it")
    pieces, stopped = streamed(ids, ["stop!"])
    assert not any("\ufffd" in piece for piece in pieces) and not stopped
    held = TextStream(TOKENIZER, ["stop!"])
    assert [held.add(token) for token in TOKENIZER.encode("stop")] == [""] * 4
    assert held.end() == "stop"


def test_nothing_follows_a_stop_string():
    stream = TextStream(TOKENIZER, ["b"])
    text = "".join(stream.add(token) for token in TOKENIZER.encode("xyb")) + stream.end()
    assert text == "xy" and stream.add(TOKENIZER.encode("z")[0]) == ""


@pytest.mark.parametrize(
    ("text", "stop", "length"),
    [("ab", "bc", 1), ("aab", "abc", 2), ("abc", "abc", 0), ("", "a", 0)],
)
def test_begun_is_the_longest_matching_prefix(text, stop, length):
    assert begun(text, stop) == length


@pytest.mark.parametrize(
    ("stop", "expected"), [(None, ()), ("a", ("a",)), (["a", "b"], ("a", "b")), ([], ())]
)
def test_stop_strings_are_a_tuple(stop, expected):
    assert stop_strings(stop) == expected
