"""Knock-outs report what two separate runs of the model report."""

import math

import pytest
import torch

from mini_moe.routing import intervene
from mini_moe.routing.measures import knock_out_effects
from tests.helpers import random_tokens, small_model, without_shape_hook

LABELS = torch.tensor([0, 1, 0, 1, 1])


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture(scope="module")
def passages(model):
    return random_tokens(model.config, batch=5, seq=9)


def loops(model, passages, off):
    """Compute loss change, KL and total variation of each passage with plain loops."""
    with torch.no_grad():
        before = model(passages).double().softmax(-1)
        with intervene(model, off=off) as changed:
            after = changed(passages).double().softmax(-1)
    found = []
    for passage in range(len(passages)):
        change = divergence = variation = 0.0
        for place in range(passages.shape[1] - 1):
            p, q = before[passage, place].tolist(), after[passage, place].tolist()
            target = int(passages[passage, place + 1])
            change += math.log(p[target]) - math.log(q[target])
            divergence += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
            variation += sum(abs(a - b) for a, b in zip(p, q, strict=True)) / 2
        found.append([v / (passages.shape[1] - 1) for v in (change, divergence, variation)])
    return torch.tensor(found)


def test_effects_equal_loops_over_two_runs(model, passages):
    knock_outs = [{(1, 0)}, {(1, 2), (2, 5)}]
    found = knock_out_effects(model, passages, LABELS, knock_outs, 2)
    for place, off in enumerate(knock_outs):
        by_passage = loops(model, passages, off)
        for label in range(2):
            mine = by_passage[label == LABELS]
            expected = mine.mean(0).tolist()
            assert found.loss_change[place, label].item() == pytest.approx(expected[0], abs=1e-5)
            assert found.divergence[place, label].item() == pytest.approx(expected[1], abs=1e-5)
            assert found.total_variation[place, label].item() == pytest.approx(
                expected[2], abs=1e-5
            )
            error = mine[:, 0].std().item() / math.sqrt(len(mine))
            assert found.error[place, label].item() == pytest.approx(error, abs=1e-5)


def test_switching_nothing_off_changes_nothing(model, passages):
    found = knock_out_effects(model, passages, LABELS, [()], 2)
    for values in (found.loss_change, found.error, found.divergence, found.total_variation):
        assert values.abs().max() == 0


def test_an_expert_that_no_token_chooses_has_no_effect(model, passages):
    with torch.no_grad():
        with intervene(model, bias={1: [-100.0] + [0.0] * 7}) as changed:
            found = knock_out_effects(changed, passages, LABELS, [{(1, 0)}], 2)
    assert found.total_variation.max() == 0


def test_the_model_is_left_as_it_was(model, passages):
    before = model(passages)
    knock_out_effects(model, passages, LABELS, [{(2, 1)}], 2)
    assert torch.equal(model(passages), before)


def test_labels_need_two_passages_to_have_an_error(model, passages):
    for labels, n_labels in ((torch.tensor([0, 0, 0, 0, 1]), 2), (LABELS, 3), (LABELS, 1)):
        with pytest.raises(ValueError, match="two passages for each"):
            knock_out_effects(model, passages, labels, [], n_labels)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"labels": LABELS.float()}, "labels: a tensor of integers expected, got torch.float32"),
        ({"labels": LABELS - 1}, "labels: one number, at least 0"),
        ({"labels": LABELS[:3]}, r"got \[3\] for \[5, 9\]"),
        ({"passages": [[1, 2]]}, "passages: a tensor of integers expected, got list"),
        ({"n_labels": 2.0}, "n_labels=2.0 must be an integer"),
        ({"knock_outs": [(1, 0)]}, "off=1 must be"),
    ],
)
def test_arguments_that_do_not_fit_are_named(model, passages, wrong, named):
    given = {"passages": passages, "labels": LABELS, "knock_outs": [], "n_labels": 2} | wrong
    with without_shape_hook(), pytest.raises(ValueError, match=named):
        knock_out_effects(model, **given)
