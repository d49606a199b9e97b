"""Knock-outs switch off the right experts after training, and none stay off."""

import pytest
import torch

from mini_moe import Transformer
from mini_moe.experiments import loss_increases
from mini_moe.experiments.knock_outs import knock_out_losses, pairs
from mini_moe.experiments.measures import domain_counts
from mini_moe.routing import intervene
from mini_moe.training.evaluation import validation_losses


@pytest.fixture
def model(arms):
    return Transformer(arms["moe"].model).eval()


@pytest.fixture
def load(model, corpus, arms):
    counts = domain_counts(model, corpus, corpus.domain_names[0], arms["moe"].training)
    return (counts / counts.sum(dim=-1, keepdim=True)).tolist()


def test_the_model_is_unchanged(model, load, corpus, arms):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    config = model.config
    knock_out_losses(model, load, corpus, arms["moe"].training)
    after = model.state_dict()
    assert before.keys() == after.keys() and model.config == config
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(block.mlp.shared_experts is not None for block in model.layers if block.is_moe)


def test_every_condition_is_measured(model, load, corpus, arms):
    results = knock_out_losses(model, load, corpus, arms["moe"].training)
    conditions = [(r["off"], r["count"]) for r in results]
    assert conditions[:3] == [("nothing", 0), ("shared", 1), ("shared, one more routed", 1)]
    assert [c for c in conditions if c[0] == "most used"] == [
        ("most used", n) for n in (1, 2, 4, 8)
    ]
    assert len([c for c in conditions if c[0] == "random"]) == 8


def test_losses_match_those_of_the_interventions(model, load, corpus, arms):
    training = arms["moe"].training
    results = knock_out_losses(model, load, corpus, training)
    by_hand = {(1 + n, max(range(12), key=shares.__getitem__)) for n, shares in enumerate(load)}
    for changes, off, count in [
        ({}, "nothing", 0),
        ({"shared_off": {1, 2}, "top_k": 3}, "shared, one more routed", 1),
        ({"off": by_hand}, "most used", 1),
    ]:
        with intervene(model, **changes) as changed:
            expected = validation_losses(changed, corpus, training.seq_len)["all"]
        (measured,) = [r["loss"] for r in results if (r["off"], r["count"]) == (off, count)]
        assert measured == pytest.approx(expected, abs=2e-6)


def test_the_draws_follow_the_seed(model, load, corpus, arms):
    first, again = (knock_out_losses(model, load, corpus, arms["moe"].at_seed(3)) for _ in range(2))
    other = knock_out_losses(model, load, corpus, arms["moe"].at_seed(4))
    assert first == again != other


def test_pairs_use_the_models_layer_indices():
    assert pairs(1, [[0, 4], [2]]) == {(1, 0), (1, 4), (2, 2)}


def test_increases_average_draws_but_not_seeds():
    def run(base, *others):
        return {"arm": "moe", "knock_outs": [{"off": "nothing", "count": 0, "loss": base}, *others]}

    def off(what, count, loss):
        return {"off": what, "count": count, "loss": loss}

    first = run(3.0, off("shared", 1, 3.5), off("random", 2, 3.2), off("random", 2, 3.4))
    second = run(2.0, off("shared", 1, 2.25), off("random", 2, 2.0), off("random", 2, 2.5))
    found = loss_increases([first, {"arm": "dense"}, second], "moe")
    assert found == {
        "shared": {1: [pytest.approx(0.5), pytest.approx(0.25)]},
        "random": {2: [pytest.approx(0.3), pytest.approx(0.25)]},
    }


def test_increases_need_an_arm_with_knock_outs():
    with pytest.raises(ValueError, match="arm='dense': an arm with knock_outs expected"):
        loss_increases([{"arm": "dense"}], "dense")


def test_a_load_of_the_wrong_shape_is_refused(model, load, corpus, arms):
    with pytest.raises(ValueError, match=r"load: .* 12 experts in each of 2 layers expected"):
        knock_out_losses(model, load[:1], corpus, arms["moe"].training)
