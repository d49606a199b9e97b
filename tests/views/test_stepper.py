"""The stepper shows the router's numbers."""

import dataclasses
import re

import pytest
import torch

from mini_moe import presets
from mini_moe.model.router import route
from mini_moe.views import RoutingStepper, routing_steps, step_routing, token_steps

GROUPED = dataclasses.replace(
    presets.tiny(), n_routed_experts=8, top_k=2, n_expert_groups=4, top_k_groups=2
)
LOGITS = torch.tensor([2.0, -1.0, 0.5, 0.4, 1.0, 0.9, -2.0, 1.5])
BIAS = torch.tensor([-0.5, 0.0, 0.0, 0.0, 0.0, 0.3, 0.0, 0.0])


def test_the_steps_end_where_the_router_ends():
    steps = routing_steps(LOGITS, BIAS, GROUPED)
    routing = route(LOGITS[None], BIAS, GROUPED)
    chosen = routing.expert_ids[0]
    assert torch.equal(steps.gates[chosen], routing.gates[0])
    assert torch.equal(steps.rank[chosen], torch.arange(1, 3))
    assert int(steps.gates.isnan().sum()) == 6
    assert torch.equal(steps.allowed, ~routing.choice_scores[0].isinf())
    assert torch.allclose(steps.shares[chosen] * 2.5, routing.gates[0])


def test_a_group_is_worth_its_two_best_biased_scores():
    steps = routing_steps(LOGITS, BIAS, GROUPED)
    biased = LOGITS.sigmoid() + BIAS
    assert torch.allclose(steps.groups[::2], biased.view(4, 2).sum(-1))


def test_a_single_group_has_no_score_and_says_so():
    steps = routing_steps(torch.randn(16), None, presets.tiny())
    assert steps.groups.isnan().all()
    assert steps.allowed.all()
    assert "Only one group" in repr(step_routing(steps, presets.tiny(), 4))


@pytest.mark.parametrize("step", range(1, 8))
def test_each_step_adds_a_column(step):
    html = step_routing(routing_steps(LOGITS, BIAS, GROUPED), GROUPED, step).html
    head = re.search("<thead>(.*)</thead>", html).group(1)
    assert head.count("<th") == step + 1
    assert html.count("<tr") == 9


def test_the_last_step_shows_the_gates_and_their_sum():
    steps = routing_steps(LOGITS, BIAS, GROUPED)
    shown = step_routing(steps, GROUPED)
    assert "The gates sum to 2.500." in repr(shown)
    for gate in steps.gates[~steps.gates.isnan()].tolist():
        assert f"{gate:.3f}" in shown.html
    with pytest.raises(ValueError, match="step=8: 1 to 7 expected"):
        step_routing(steps, GROUPED, 8)


def test_a_traced_token_steps_to_its_own_gates(model, trace):
    for layer in trace.layers:
        steps = token_steps(trace, 2, layer, model)
        place = trace.layers.index(layer)
        ids = trace.expert_ids[place, 2]
        assert torch.allclose(steps.gates[ids], trace.gates[place, 2], atol=1e-4)


def test_the_slider_walks_through_the_steps():
    stepper = RoutingStepper(LOGITS, BIAS, GROUPED)
    assert repr(stepper).startswith("Step 1 of 7")
    stepper.slider.value = 5
    assert "Chosen: " in stepper.table.value
    assert "Step 7 of 7" in stepper._repr_mimebundle_()["text/html"]


def test_a_dragged_bias_moves_the_choice_and_no_gate_until_then():
    stepper = RoutingStepper(LOGITS, None, presets.tiny(), step=7, drag=1)
    before = stepper.steps.gates
    stepper.bias.value = 0.3  # not yet enough for expert 1
    assert torch.equal(stepper.steps.gates.nan_to_num(), before.nan_to_num())
    stepper.bias.value = 0.9
    assert stepper.steps.rank[1] == 1
    assert "Bias of 1: 0.90. Step 7 of 7" in repr(stepper)
    assert "Chosen: 1, 0" in stepper.table.value


def test_dragging_leaves_the_given_bias_alone():
    bias = BIAS.clone()
    RoutingStepper(LOGITS, bias, GROUPED, drag=0).bias.value = 1.0
    assert torch.equal(bias, BIAS)
