"""A grid counts exactly the needles that greedy decoding would find."""

import numpy as np
import pytest
import torch

from mini_moe.experiments.needle import needle_example, needle_grid, retrieves
from mini_moe.inference import Sampling, complete
from mini_moe.text import load_corpus
from tests.helpers import small_model


@pytest.fixture(scope="module")
def corpus():
    return load_corpus()


@pytest.fixture(scope="module")
def model(corpus):
    return small_model(vocab_size=corpus.tokenizer.vocab_size, max_seq_len=256)


def test_an_answer_counts_only_if_complete(corpus):
    examples = [needle_example(corpus, 200, 0.5, seed) for seed in range(3)]
    logits = torch.zeros(3, 199, corpus.tokenizer.vocab_size)
    for index, example in enumerate(examples):
        logits[index, range(193, 199), example.answer] = 1.0
    logits[1, 193, 0] = logits[2, 198, 0] = 2.0  # wrong: first token of one answer, last of another
    model = small_model()
    model.hidden, model.lm_head = lambda tokens: logits[: len(tokens)], torch.nn.Identity()
    assert retrieves(model, examples) == [True, False, False]


def test_one_pass_finds_what_greedy_decoding_finds(corpus, model):
    greedy = Sampling(temperature=0.0)
    examples = [needle_example(corpus, 130, 0.5, seed, "fact") for seed in range(4)]
    for example in examples:  # an untrained model finds nothing, so its output becomes the answer
        written = complete(model, [example.tokens.tolist()], 1, sampling=greedy)[0].tokens
        example.answer[:] = written
    assert retrieves(model, examples) == [True] * 4
    examples[1].answer[0] += 1
    assert retrieves(model, examples) == [True, False, True, True]


def test_rows_are_depths_and_columns_lengths(corpus, model):
    grid = needle_grid(model, corpus, [130, 200], [0.0, 0.5, 1.0], trials=2)
    assert grid.lengths == (130, 200) and grid.depths == (0, 0.5, 1.0)
    assert grid.retrieved.shape == (3, 2) and not grid.retrieved.any()
    assert (grid.trials, grid.kind) == (2, "passkey")


def test_the_batch_changes_nothing(corpus, model, monkeypatch):
    asked = []

    def note(model, examples):
        asked.extend(example.needle for example in examples)
        return [len(example.text) % 2 == 0 for example in examples]

    monkeypatch.setattr("mini_moe.experiments.needle.grid.retrieves", note)
    first = needle_grid(model, corpus, [130, 256], [0.0, 0.7], trials=3, seed=2)
    again = needle_grid(model, corpus, [130, 256], [0.0, 0.7], trials=3, seed=2)
    assert np.array_equal(first.retrieved, again.retrieved)
    assert asked[: len(asked) // 2] == asked[len(asked) // 2 :]
    assert len(set(asked[: len(asked) // 2])) == 12


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lengths": []}, "at least one of each expected"),
        ({"depths": []}, "at least one of each expected"),
        ({"trials": 0}, "trials=0"),
        ({"lengths": [130, 512]}, "at most max_seq_len=256 expected, got 512"),
        ({"lengths": [30]}, "length=30 must be at least"),
        ({"depths": [2.0]}, "depth=2.0"),
        ({"kind": "poem"}, "kind: expected one of"),
    ],
)
def test_impossible_grids_are_refused(corpus, model, changes, message):
    with pytest.raises(ValueError, match=message):
        needle_grid(model, corpus, **{"lengths": [130], "depths": [0.5], "trials": 1} | changes)


def test_no_examples_give_no_answers_and_lengths_must_not_be_mixed(corpus, model):
    assert retrieves(model, []) == []
    examples = [needle_example(corpus, length, 0.5) for length in (100, 120)]
    with pytest.raises(ValueError, match=r"equal length expected, got lengths \[100, 120\]"):
        retrieves(model, examples)
