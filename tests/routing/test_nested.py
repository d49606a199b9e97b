"""Interventions inside interventions, and in half precision."""

import copy

import pytest
import torch

from mini_moe.routing import intervene, trace_routing
from mini_moe.routing.intervene import moe_layers
from tests.helpers import random_tokens, small_model


@pytest.fixture
def model():
    return small_model()


@pytest.fixture
def tokens(model):
    return random_tokens(model.config)


def test_nested_changes_leave_every_token_enough_experts(model):
    layer = min(moe_layers(model))
    half, rest = ({(layer, e) for e in side} for side in (range(4), range(4, 8)))
    with intervene(model, off=half) as changed, pytest.raises(ValueError, match="off"):
        with intervene(changed, off=rest):
            pass
    with intervene(model, off={(layer, e) for e in range(6)}) as changed:
        with pytest.raises(ValueError), intervene(changed, top_k=3):
            pass


def test_temperature_divides_logits_in_half_precision_as_well(model, tokens):
    half = copy.deepcopy(model).bfloat16()
    plain = trace_routing(half, tokens).router_logits[0].float()
    with intervene(half, temperature=1.1) as changed:
        cooled = trace_routing(changed, tokens).router_logits[0].float()
    assert torch.allclose(cooled * 1.1, plain, rtol=1e-4, atol=1e-5)
