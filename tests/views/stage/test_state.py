"""Changes really run, steps match the model, and contributions add up to the layer's output."""

import dataclasses

import pytest
import torch

from mini_moe import Transformer, presets, trace_routing
from mini_moe.routing import intervene
from mini_moe.text import default_tokenizer
from mini_moe.views.stage.state import (
    UNTOUCHED,
    Changes,
    effect,
    moment_mix,
    moment_steps,
    percent,
    prospects,
    run_moment,
    strongest_switches,
)
from tests.views.conftest import SENTENCE

CHANGES = {
    "untouched": UNTOUCHED,
    "expert off": UNTOUCHED.switch((2, 3), off=True),
    "shared off": UNTOUCHED.switch_shared(1, off=True),
    "bias": UNTOUCHED.push((3, 5), 0.4),
    "temperature": Changes(temperature=2.5),
    "top-k": Changes(top_k=2),
    "all": Changes(frozenset({(1, 0), (3, 9)}), frozenset({2}), {(2, 1): -0.3}, 0.5, 3),
}


@pytest.fixture(scope="module")
def ids(model):
    return model.tokenizer.encode(SENTENCE)


@pytest.fixture(params=CHANGES, scope="module")
def moment(request, model, ids):
    return run_moment(model, ids, CHANGES[request.param])


def test_the_changed_trace_is_the_model_under_intervene(moment, model, ids):
    with intervene(model, **moment.changes.arguments(16)) as changed:
        expected = trace_routing(changed, ids)
    assert torch.equal(moment.after.logits, expected.logits)
    assert torch.equal(moment.after.expert_ids, expected.expert_ids)
    assert torch.equal(moment.before.logits, trace_routing(model, ids).logits)


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_steps_choose_and_weigh_as_the_model_did(moment, model, layer):
    for token in (0, 4):
        steps = moment_steps(moment, model, layer, token)
        ids = moment.after.expert_ids[layer - 1, token]
        assert steps.rank[ids].tolist() == list(range(1, len(ids) + 1))
        torch.testing.assert_close(steps.gates[ids], moment.after.gates[layer - 1, token])
        torch.testing.assert_close(steps.scores, moment.after.scores[layer - 1, token])


def test_the_mix_adds_up_to_the_layer(moment, model):
    layer, token = 2, 4
    with torch.no_grad(), intervene(model, **moment.changes.arguments(16)) as changed:
        moe = changed.layers[layer].mlp
        x = moment.inputs[layer][token]
        routed = moe.experts(x[None], moment.after.expert_ids[1, token][None],
                             moment.after.gates[1, token][None])  # fmt: skip
        output = moe(x[None, None])[0, 0]
    mix = moment_mix(moment, model, layer, token)
    assert set(mix.routed.isnan().logical_not().nonzero().flatten().tolist()) == set(
        moment.after.expert_ids[1, token].tolist()
    )
    assert mix.shared == pytest.approx((output - routed[0]).norm().item(), rel=1e-3, abs=1e-5)
    assert mix.routed.nansum() >= routed.norm() - 1e-5


def test_no_hook_and_no_change_is_left_behind(model, ids):
    before = model(torch.tensor([ids]))
    with pytest.raises(ValueError, match="off"):
        run_moment(model, ids, Changes(off=frozenset((1, e) for e in range(14))))
    assert torch.equal(model(torch.tensor([ids])), before)
    assert not any(layer.mlp._forward_pre_hooks for layer in model.layers)


def test_steps_of_softmax_scores_too():
    config = dataclasses.replace(presets.tiny(), d_model=32, d_ff=48, d_expert=16, max_seq_len=64,
                                 score_function="softmax", expert_bias=False)  # fmt: skip
    model = Transformer(config).eval()
    model.tokenizer = default_tokenizer()
    moment = run_moment(model, [5, 6, 7], CHANGES["all"])
    steps = moment_steps(moment, model, 1, 2)
    torch.testing.assert_close(steps.gates[moment.after.expert_ids[0, 2]], moment.after.gates[0, 2])


def test_a_switched_off_expert_is_chosen_by_no_token(model, ids):
    moment = run_moment(model, ids, UNTOUCHED.switch((2, 3), off=True))
    assert 3 not in moment.after.expert_ids[1]
    assert moment.changes.switch((2, 3), off=False) == UNTOUCHED


def test_changes_say_what_they_are():
    words = str(CHANGES["all"])
    assert words == (
        "layer 1: expert 0 off · layer 3: expert 9 off · layer 2: shared expert off · "
        "layer 2: bias of expert 1 -0.30 · temperature 0.5 · 3 experts a token"
    )
    assert str(UNTOUCHED.push((1, 1), 0.2).push((1, 1), 0.0)) == ""


def test_prospects_hold_what_either_model_finds_likeliest(model, ids):
    moment = run_moment(model, ids, CHANGES["all"])
    rows = prospects(moment, model, 3, count=4)
    before, after = (t.logits[3].softmax(-1) for t in (moment.before, moment.after))
    assert {int(before.argmax()), int(after.argmax())} <= {row.token for row in rows}
    assert rows[0].token == int(before.argmax())
    for row in rows:
        assert row.before == pytest.approx(float(before[row.token]))
        assert row.after == pytest.approx(float(after[row.token]))


def test_the_strongest_switch_beats_every_other(model, ids):
    best = strongest_switches(model, SENTENCE, count=48)
    assert len({(switch.layer, switch.expert) for switch in best}) == 48
    assert [switch.after for switch in best] == sorted(switch.after for switch in best)
    moment = run_moment(model, ids, UNTOUCHED.switch(best[0][:2], off=True))
    token = int(moment.before.logits[-1].argmax())
    assert best[0].after == pytest.approx(float(moment.after.logits[-1].softmax(-1)[token]))


def test_effect_fits_in_one_line(model):
    assert " → " in effect(model, SENTENCE, CHANGES["all"])
    assert percent(0.004) == "<1 %" and percent(0.836) == "84 %"
