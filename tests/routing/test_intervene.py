"""An intervention changes what the model computes, exactly as asked, and nothing stays of it."""

import pytest
import torch

from mini_moe.model.router import route
from mini_moe.routing import intervene, trace_routing
from mini_moe.routing.intervene import moe_layers
from tests.helpers import random_tokens, small_model


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.fixture
def model():
    return small_model().eval()


@pytest.fixture
def tokens(model):
    return random_tokens(model.config)


CHANGES = {
    "off": {"off": {(1, 0), (1, 3)}},
    "shared": {"shared_off": {1}},
    "bias": {"bias": {1: [0.5] * 4 + [-0.5] * 4}},
    "top_k": {"top_k": 3},
    "temperature": {"temperature": 0.25},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_every_change_has_an_effect_and_leaves_nothing(model, tokens, change):
    before, logits = state(model), model(tokens)
    with intervene(model, **change):
        assert not torch.equal(model(tokens), logits)
    after = state(model)
    assert after.keys() == before.keys() and all(after[n].equal(before[n]) for n in before)
    assert torch.equal(model(tokens), logits)


def test_the_model_is_restored_after_an_exception(model, tokens):
    logits = model(tokens)
    with pytest.raises(RuntimeError, match="in the middle"):
        with intervene(model, off={(1, 2)}, shared_off={1}, top_k=1, temperature=2.0):
            raise RuntimeError("in the middle")
    assert torch.equal(model(tokens), logits)


def test_without_changes_the_same_bits(model, tokens):
    logits = model(tokens)
    with intervene(model):
        assert torch.equal(model(tokens), logits)


def test_an_expert_that_is_off_is_never_chosen_and_the_others_keep_their_order(model, tokens):
    layer = min(moe_layers(model))
    plain = trace_routing(model, tokens)
    with intervene(model, off={(layer, 5)}):
        trace = trace_routing(model, tokens)
    assert 5 not in trace.expert_ids[0]
    for token, chosen in enumerate(trace.expert_ids[0].tolist()):
        order = plain.choice_scores[0, token].sort(descending=True, stable=True).indices.tolist()
        assert chosen == [e for e in order if e != 5][:2]
    unmoved = ~(plain.expert_ids[0] == 5).any(dim=-1)
    assert torch.equal(trace.gates[0][unmoved], plain.gates[0][unmoved])


def test_an_unused_expert_can_be_switched_off_without_any_effect(model, tokens):
    ids = trace_routing(model, tokens[:1, :2]).expert_ids[0]
    idle = next(e for e in range(8) if e not in ids)
    with intervene(model, off={(1, idle)}):
        assert torch.equal(model(tokens[:1, :2]), model(tokens[:1, :2]))
        assert torch.equal(trace_routing(model, tokens[:1, :2]).expert_ids[0], ids)


def test_bias_moves_the_choice_and_not_the_gates(model, tokens):
    added = torch.linspace(-0.2, 0.2, 8)
    with intervene(model, bias={1: added}):
        trace = trace_routing(model, tokens)
    plain = trace_routing(model, tokens)
    assert torch.equal(trace.scores[0], plain.scores[0])
    bias = moe_layers(model)[1].gate.e_score_correction_bias + added
    expected = route(plain.scores[0].logit(), bias, model.config)
    assert torch.equal(trace.expert_ids[0], expected.expert_ids)
    torch.testing.assert_close(trace.gates[0], expected.gates)


def test_temperature_divides_the_logits(model, tokens):
    with intervene(model, temperature=2):
        warm = trace_routing(model, tokens).scores[0]
    torch.testing.assert_close(warm.logit(), trace_routing(model, tokens).scores[0].logit() / 2)


def test_top_k_changes_how_many_are_chosen(model, tokens):
    with intervene(model, top_k=5):
        trace = trace_routing(model, tokens)
    assert trace.expert_ids.shape[-1] == trace.gates.shape[-1] == 5
    torch.testing.assert_close(trace.gates.sum(-1), torch.full(trace.gates.shape[:-1], 2.5))


def test_shared_experts_off_leaves_the_routed_ones(model, tokens):
    moe, x = moe_layers(model)[1], torch.randn(1, 6, model.config.d_model)
    with intervene(model, shared_off={1}):
        alone = moe(x)
    torch.testing.assert_close(moe(x), alone + moe.shared_experts(x))


def test_a_softmax_router_without_bias_can_lose_an_expert_too(tokens):
    model = small_model(score_function="softmax", expert_bias=False).eval()
    with intervene(model, off={(1, 4)}):
        assert 4 not in trace_routing(model, tokens).expert_ids[0]
    assert moe_layers(model)[1].gate.e_score_correction_bias is None


def test_groups_with_silent_experts_still_choose_live_ones(tokens):
    model = small_model(n_expert_groups=4, top_k_groups=2).eval()
    with intervene(model, off={(1, 0), (1, 2)}):  # one of each of two groups
        chosen = trace_routing(model, tokens).expert_ids[0]
    assert not ((chosen == 0) | (chosen == 2)).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"off": {(0, 1)}}, r"layer=0: one with experts expected, \[1"),
        ({"off": {(1, 8)}}, "expert 8 of layer 1: below 8 expected"),
        ({"off": {(1, -1)}}, "expert -1 of layer 1"),
        ({"off": {(1, e) for e in range(7)}}, "left with 1 experts, a token chooses 2"),
        ({"shared_off": {9}}, "layer=9"),
        ({"bias": {0: [0.0] * 8}}, "layer=0"),
        ({"bias": {1: [0.0] * 7}}, r"bias of layer 1: 8 finite numbers expected, got \[7\]"),
        ({"bias": {1: [float("nan")] * 8}}, "finite"),
        ({"top_k": 0}, "top_k=0"),
        ({"top_k": 9}, "top_k=9"),
        ({"temperature": 0}, "temperature=0"),
        ({"temperature": -1.0}, "temperature=-1"),
        ({"temperature": float("nan")}, "temperature=nan"),
    ],
)
def test_impossible_changes_are_refused_before_anything_changes(model, tokens, change, message):
    logits = model(tokens)
    with pytest.raises(ValueError, match=message):
        with intervene(model, **change):
            pass
    assert torch.equal(model(tokens), logits)


def test_a_dense_model_is_refused():
    with pytest.raises(ValueError, match="only dense layers"):
        with intervene(small_model(n_dense_layers=3, n_layers=3)):
            pass
