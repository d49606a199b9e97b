"""Needles sit at the right depth, lengths are exact, and tests use nothing seen in training."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mini_moe.text import Corpus, load_corpus
from mini_moe.text.needle import DIGITS, Haystack, needle_example


@pytest.fixture(scope="module")
def corpus():
    return load_corpus()


@pytest.fixture(scope="module")
def sides(corpus):
    return Haystack(corpus, "train"), Haystack(corpus)


@settings(max_examples=20, deadline=None)
@given(
    length=st.integers(130, 3000),
    depth=st.floats(0, 1),
    seed=st.integers(0, 2**32),
    kind=st.sampled_from(["passkey", "fact"]),
    distractors=st.integers(0, 3),
)
def test_text_and_answer_have_the_length_and_the_text_holds_the_answer(
    sides, length, depth, seed, kind, distractors
):
    example = sides[1].example(length, depth, seed, kind, distractors)
    assert len(example.tokens) + len(example.answer) == example.length == length
    decode = sides[1].tokenizer.decode
    assert decode(example.tokens) == example.text
    assert (
        example.text.endswith(".\n" + example.question) or "\n" + example.question in example.text
    )
    assert example.text.count(example.needle) == 1
    answer = decode(example.answer)
    assert example.needle.endswith(f"is{answer}.") and example.question.endswith(" is")
    assert len(example.distractors) == distractors
    assert all(sentence in example.text for sentence in example.distractors)
    asked = example.needle.split(" is ")[0]
    assert not any(sentence.startswith(asked + " is ") for sentence in example.distractors)


@pytest.mark.parametrize("depth", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_the_needle_is_at_its_depth_at_the_beginning_of_a_line(sides, depth):
    for seed in range(5):
        example = sides[1].example(2000, depth, seed, distractors=0)
        before, after = example.text.split(example.needle)
        assert not before or before.endswith("\n")
        assert after.startswith("\n") and example.depth == pytest.approx(depth, abs=0.05)
        encode = sides[1].tokenizer.encode
        share = len(encode(before)) / (len(encode(before)) + len(encode(after)))
        assert abs(share - depth) < 0.05


def test_one_seed_gives_one_example_and_another_gives_another(corpus):
    first = needle_example(corpus, 300, 0.5, seed=4)
    again = needle_example(corpus, 300, 0.5, seed=4)
    assert torch.equal(first.tokens, again.tokens) and first.answer == again.answer
    assert needle_example(corpus, 300, 0.5, seed=5).needle != first.needle


def test_names_values_and_text_of_tests_are_never_trained_on(sides):
    train, test = sides
    assert set(train.words).isdisjoint(test.words) and train.words and test.names
    assert set(test.names) <= set(test.words)
    draw = np.random.default_rng(0)
    keys = [{side.value("passkey", draw) for _ in range(300)} for side in sides]
    assert keys[0].isdisjoint(keys[1])
    assert all(len(key) == DIGITS and key.isdigit() for key in keys[0] | keys[1])
    assert train.stream is train.corpus.train.tokens
    assert test.stream is test.corpus.validation.tokens


def test_only_what_a_needle_reveals_counts_as_an_answer(sides):
    train = sides[0]
    for seed in range(5):
        row = train.row(300, [0, seed])
        assert len(row.tokens) == len(row.answers) == 300
        text = train.tokenizer.decode(row.tokens)
        told = train.tokenizer.decode(row.tokens[row.answers]).split()
        assert len(told) == 2 and sum(value.isdigit() for value in told) == 1
        assert all(text.count(f" is {value}.\n") >= 2 for value in told)
        assert text.endswith(f" is {told[-1]}.\n")
    assert torch.equal(row.tokens, train.row(300, [0, 4]).tokens)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"kind": "proverb"}, "kind: expected one of"),
        ({"depth": 1.5}, "depth=1.5"),
        ({"depth": float("nan")}, "depth=nan"),
        ({"distractors": -1}, "distractors=-1"),
        ({"distractors": 10_000}, "distractors=10000"),
        ({"length": 20}, "length=20 must be at least"),
        ({"length": 10_000_000}, "validation has"),
    ],
)
def test_impossible_requests_are_refused(corpus, arguments, said):
    with pytest.raises(ValueError, match=said):
        needle_example(corpus, **{"length": 300, "depth": 0.5} | arguments)


def test_a_row_that_is_too_short_says_how_long_it_must_be(sides):
    with pytest.raises(ValueError, match=r"length=50 must be at least \d+"):
        sides[0].row(50, [0])


def test_a_tokenizer_without_words_and_an_unknown_side_are_refused(corpus, tmp_path):
    (tmp_path / "text.txt").write_text("a b c d e f 0 1 2 3\n" * 50)
    with pytest.raises(ValueError, match="whole words"):
        Haystack(Corpus.from_text(tmp_path / "text.txt"))
    with pytest.raises(ValueError, match="split: expected one of"):
        Haystack(corpus, "test")
