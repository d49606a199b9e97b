"""An intervention changes what the model computes, exactly as asked, and leaves no trace."""

import copy
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from mini_moe import generate, load_hf, save_hf
from mini_moe.inference import Sampling, stream
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


EVERYTHING = {"off": {(1, 2)}, "shared_off": {1}, "top_k": 1, "temperature": 2.0}
CHANGES = {
    "off": {"off": {(1, 0), (1, 3)}},
    "shared": {"shared_off": {1}},
    "bias": {"bias": {1: [0.5] * 4 + [-0.5] * 4}},
    "top_k": {"top_k": 3},
    "temperature": {"temperature": 0.25},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_every_change_has_an_effect_and_leaves_no_trace(model, tokens, change):
    before, logits = state(model), model(tokens)
    with intervene(model, **change) as changed:
        assert not torch.equal(changed(tokens), logits)
    after = state(model)
    assert after.keys() == before.keys() and all(after[n].equal(before[n]) for n in before)
    assert torch.equal(model(tokens), logits)


def test_an_exception_propagates_and_leaves_no_trace(model, tokens):
    logits = model(tokens)
    with pytest.raises(RuntimeError, match="in the middle"):
        with intervene(model, **EVERYTHING):
            raise RuntimeError("in the middle")
    assert torch.equal(model(tokens), logits)


def test_the_model_itself_is_unchanged_while_changed_runs(model, tokens):
    logits, tensors = model(tokens), dict(model.named_parameters())
    with intervene(model, **EVERYTHING) as changed:
        assert torch.equal(model(tokens), logits)
        assert not torch.equal(changed(tokens), logits)
        assert all(own is tensors[name] for name, own in changed.named_parameters())
        assert [moe.gate.config for moe in moe_layers(model).values()] == [model.config] * 2


def test_interventions_overlap_in_any_order(model, tokens):
    one, two = intervene(model, top_k=1), intervene(model, **EVERYTHING)
    logits, first = model(tokens), one.__enter__()
    alone, second = first(tokens), two.__enter__()
    assert torch.equal(first(tokens), alone) and not torch.equal(second(tokens), alone)
    one.__exit__(None, None, None)
    assert torch.equal(model(tokens), logits) and not torch.equal(second(tokens), alone)
    two.__exit__(None, None, None)
    assert torch.equal(model(tokens), logits)


def test_an_intervention_on_a_changed_model_combines_both(model, tokens):
    with intervene(model, off={(1, 5)}, temperature=2) as first:
        with intervene(first, bias={1: [0.5] * 4 + [-0.5] * 4}, shared_off={1}) as both:
            nested = both(tokens)
    change = {"off": {(1, 5)}, "temperature": 2, "shared_off": {1}}
    with intervene(model, bias={1: [0.5] * 4 + [-0.5] * 4}, **change) as at_once:
        torch.testing.assert_close(nested, at_once(tokens))


def test_threads_that_intervene_and_generate_do_not_interfere(model):
    def text(change):
        with intervene(model, **change) as changed:
            return generate(changed, [5, 17, 40], 12, temperature=0.0)

    jobs = [{}, *CHANGES.values()]
    expected = [text(change) for change in jobs]
    with ThreadPoolExecutor(len(jobs)) as pool:
        for _ in range(5):
            assert list(pool.map(text, jobs)) == expected
    assert generate(model, [5, 17, 40], 12, temperature=0.0) == expected[0]


def test_a_stream_keeps_using_the_model_it_was_given(model):
    def tokens_of(pieces):
        return [piece.token for piece in pieces]

    greedy = {"sampling": Sampling(temperature=0.0)}
    plain = generate(model, [5, 17], 12, temperature=0.0)
    before = stream(model, [5, 17], 12, **greedy)
    written = [next(before).token]
    with intervene(model, off={(1, 0), (2, 1)}, top_k=1) as changed:
        wanted = generate(changed, [5, 17], 12, temperature=0.0)
        inside = stream(changed, [5, 17], 12, **greedy)
        written += tokens_of(before)
    assert written == plain != wanted == tokens_of(inside)


def test_a_generator_that_yields_inside_changes_nothing_outside(model, tokens):
    def changed_logits():
        with intervene(model, **EVERYTHING) as changed:
            while True:
                yield changed(tokens)

    logits, running = model(tokens), changed_logits()
    first = next(running)
    assert torch.equal(model(tokens), logits)
    assert torch.equal(next(running), first) and not torch.equal(first, logits)


def test_weights_trained_during_an_intervention_are_kept_and_seen(model, tokens):
    bias = moe_layers(model)[1].gate.e_score_correction_bias.clone()
    with intervene(model, off={(1, 5)}) as changed:
        before = changed(tokens)
        with torch.no_grad():
            model.layers[0].mlp.down_proj.weight.mul_(2)
            moe_layers(model)[1].gate.e_score_correction_bias.add_(0.25)
        assert not torch.equal(changed(tokens), before)
    assert torch.equal(moe_layers(model)[1].gate.e_score_correction_bias, bias + 0.25)


def test_a_copy_keeps_the_change_but_a_saved_model_does_not(model, tokens, tmp_path):
    with intervene(model, **EVERYTHING) as changed:
        assert torch.equal(copy.deepcopy(changed)(tokens), changed(tokens))
        with pytest.raises(ValueError, match="gate.config"):
            save_hf(changed, tmp_path)
    with intervene(model, **{**EVERYTHING, "top_k": None}) as changed:
        save_hf(changed, tmp_path)
    loaded = state(load_hf(tmp_path))
    assert loaded.keys() == state(model).keys()
    assert all(loaded[name].equal(tensor) for name, tensor in state(model).items())


def test_no_changes_give_the_same_bits(model, tokens):
    logits = model(tokens)
    with intervene(model) as changed:
        assert torch.equal(changed(tokens), logits)


def test_an_expert_that_is_off_is_never_chosen_and_the_others_keep_their_order(model, tokens):
    layer = min(moe_layers(model))
    plain = trace_routing(model, tokens)
    with intervene(model, off={(layer, 5)}) as changed:
        trace = trace_routing(changed, tokens)
    assert 5 not in trace.expert_ids[0]
    for token, chosen in enumerate(trace.expert_ids[0].tolist()):
        order = plain.choice_scores[0, token].sort(descending=True, stable=True).indices.tolist()
        assert chosen == [e for e in order if e != 5][:2]
    unmoved = ~(plain.expert_ids[0] == 5).any(dim=-1)
    assert torch.equal(trace.gates[0][unmoved], plain.gates[0][unmoved])


def test_an_unused_expert_can_be_switched_off_without_any_effect(model, tokens):
    ids = trace_routing(model, tokens[:1, :2]).expert_ids[0]
    idle = next(e for e in range(8) if e not in ids)
    with intervene(model, off={(1, idle)}) as changed:
        assert torch.equal(changed(tokens[:1, :2]), model(tokens[:1, :2]))
        assert torch.equal(trace_routing(changed, tokens[:1, :2]).expert_ids[0], ids)


def test_bias_moves_the_choice_and_not_the_gates(model, tokens):
    added = torch.linspace(-0.2, 0.2, 8)
    with intervene(model, bias={1: added}) as changed:
        trace = trace_routing(changed, tokens)
    plain = trace_routing(model, tokens)
    assert torch.equal(trace.scores[0], plain.scores[0])
    bias = moe_layers(model)[1].gate.e_score_correction_bias + added
    expected = route(plain.scores[0].logit(), bias, model.config)
    assert torch.equal(trace.expert_ids[0], expected.expert_ids)
    torch.testing.assert_close(trace.gates[0], expected.gates)


def test_temperature_divides_the_logits(model, tokens):
    with intervene(model, temperature=2) as changed:
        warm = trace_routing(changed, tokens).scores[0]
    torch.testing.assert_close(warm.logit(), trace_routing(model, tokens).scores[0].logit() / 2)


def test_top_k_changes_how_many_are_chosen(model, tokens):
    with intervene(model, top_k=5) as changed:
        trace = trace_routing(changed, tokens)
    assert trace.expert_ids.shape[-1] == trace.gates.shape[-1] == 5
    torch.testing.assert_close(trace.gates.sum(-1), torch.full(trace.gates.shape[:-1], 2.5))


def test_shared_experts_off_leaves_the_routed_ones(model, tokens):
    moe, x = moe_layers(model)[1], torch.randn(1, 6, model.config.d_model)
    with intervene(model, shared_off={1}) as changed:
        alone = moe_layers(changed)[1](x)
    torch.testing.assert_close(moe(x), alone + moe.shared_experts(x))


def test_an_expert_of_a_softmax_router_without_bias_can_be_switched_off(tokens):
    model = small_model(score_function="softmax", expert_bias=False).eval()
    with intervene(model, off={(1, 4)}) as changed:
        assert 4 not in trace_routing(changed, tokens).expert_ids[0]
    assert moe_layers(model)[1].gate.e_score_correction_bias is None


def test_groups_with_silent_experts_still_choose_live_ones(tokens):
    model = small_model(n_expert_groups=4, top_k_groups=2).eval()
    with intervene(model, off={(1, 0), (1, 2)}) as changed:  # one expert in each of two groups
        chosen = trace_routing(changed, tokens).expert_ids[0]
    assert not ((chosen == 0) | (chosen == 2)).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"off": (2, 5)}, r"off=2 must be \(layer, expert\) pairs"),
        ({"off": {(1, 2, 3)}}, r"off=\(1, 2, 3\) must be a \(layer, expert\) pair"),
        ({"off": "12"}, "off='12' must be"),
        ({"off": {(1, 2.0)}}, "off: expert=2.0 must be an integer"),
        ({"off": {(True, 2)}}, "off: layer=True must be an integer"),
        ({"shared_off": 1}, "shared_off=1 must be layers"),
        ({"shared_off": [1.0]}, "shared_off: layer=1.0 must be an integer"),
        ({"bias": [0.0] * 8}, r"bias=\[.* must be a mapping"),
        ({"bias": {1: "12345678"}}, "bias of layer 1: 8 finite numbers expected, got"),
        ({"top_k": True}, "top_k=True must be an integer"),
        ({"top_k": 2.5}, "top_k=2.5 must be an integer"),
        ({"temperature": "2"}, "temperature='2' must be a finite number above 0"),
        ({"temperature": True}, "temperature=True must be"),
        ({"off": {(0, 1)}}, r"layer=0: one with experts expected, \[1"),
        ({"off": {(1, 8)}}, "expert 8 of layer 1: below 8 expected"),
        ({"off": {(1, -1)}}, "expert -1 of layer 1"),
        (
            {"off": {(1, e) for e in range(7)}},
            "at least top_k=2 experts left expected, got as few as 1",
        ),
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
@pytest.mark.any_types
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


@pytest.mark.any_types
def test_anything_but_a_model_is_refused():
    with pytest.raises(ValueError, match="model: a mini_moe.Transformer expected, got Linear"):
        with intervene(torch.nn.Linear(2, 2)):
            pass


@pytest.mark.any_types
def test_numpy_and_torch_numbers_are_accepted(model, tokens):
    change = {"off": [(1, 2), (2, 5)], "top_k": 1, "temperature": 2.0, "shared_off": [2]}
    given = {
        "off": (pair for pair in np.array(change["off"])),
        "top_k": np.int64(1),
        "temperature": torch.tensor(2.0),
        "shared_off": torch.tensor([2]),
    }
    with intervene(model, **change) as plain, intervene(model, **given) as changed:
        assert torch.equal(changed(tokens), plain(tokens))
