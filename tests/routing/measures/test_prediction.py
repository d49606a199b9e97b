"""A lookup table predicts what the labels determine, and no more."""

import pytest
import torch

from mini_moe.routing.measures import predictability
from tests.helpers import without_shape_hook
from tests.routing.measures.cases import random_choices, random_labels


def halves(tokens):
    return torch.arange(tokens) % 2 == 0


def test_labels_that_determine_everything_predict_everything():
    labels = random_labels(60, 4)
    table = torch.tensor([[0, 1], [2, 3], [4, 5], [0, 5]])
    found = predictability(table[labels][None], [labels], halves(60), 6)
    assert found.tolist() == [1.0]


def test_labels_that_say_nothing_predict_chance():
    ids = random_choices(1, 6000, 2, 8)
    found = predictability(ids, [random_labels(6000)], halves(6000), 8)
    assert float(found) == pytest.approx(2 / 8, abs=0.02)


def test_memorised_tokens_do_not_count():
    ids = random_choices(1, 400, 2, 8)
    alone = torch.arange(400)  # a different label for every token
    assert float(predictability(ids, [alone], halves(400), 8)) < 0.35


def test_without_labels_the_guess_is_the_load():
    ids = torch.tensor([[[0, 1]] * 6 + [[2, 3]] * 2])
    found = predictability(ids, [], torch.tensor([True] * 4 + [False] * 4), 4)
    assert found.tolist() == [0.5]


def test_a_rare_label_falls_back_on_the_coarser_one():
    ids = torch.tensor([[[0], [0], [0], [1], [0], [0]]])
    coarse = torch.zeros(6, dtype=torch.long)
    fine = torch.tensor([0, 0, 1, 2, 3, 4])  # the last two were never seen
    learn = torch.tensor([True] * 4 + [False] * 2)
    assert predictability(ids, [coarse, fine], learn, 2).tolist() == [1.0]


def test_equals_a_loop_with_one_level():
    ids, labels, learn = random_choices(1, 80, 2, 5), random_labels(80), halves(80)
    hits = torch.zeros(80, 5).scatter(1, ids[0], 1.0)
    load, right = hits[learn].mean(0), []
    for token in (~learn).nonzero().flatten().tolist():
        alike = learn & (labels == labels[token])
        shares = (hits[alike].sum(0) + load) / (alike.sum() + 1)
        guess = set(shares.topk(2).indices.tolist())
        right.append(len(guess & set(ids[0, token].tolist())) / 2)
    found = predictability(ids, [labels], learn, 5)
    assert float(found) == pytest.approx(sum(right) / len(right))


@pytest.mark.parametrize("learn", [torch.zeros(40).bool(), torch.ones(40).bool()])
def test_something_to_learn_and_something_to_test_are_needed(learn):
    with pytest.raises(ValueError, match="learn"):
        predictability(random_choices(), [], learn, 6)


@pytest.mark.parametrize(
    "wrong", [torch.tensor([1, 0] * 20), [True, False] * 20, torch.tensor([True])]
)
def test_only_a_mask_over_all_tokens_is_accepted_for_learning(wrong):
    with (
        without_shape_hook(),
        pytest.raises(ValueError, match="learn=.* True or False for each of 40"),
    ):
        predictability(random_choices(), [], wrong, 6)
