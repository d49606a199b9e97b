"""A twin shares the model's weights, and nothing done to its modules reaches the model."""

import torch
from torch import nn

from mini_moe.routing.twin import shadow, twin
from tests.helpers import random_tokens, small_model


def test_a_twin_has_the_weights_and_the_logits_of_the_model():
    model = small_model(n_mtp_layers=1)
    other, tokens = twin(model), random_tokens(model.config)
    assert torch.equal(other(tokens), model(tokens))
    for mine, own in ((other.parameters(), model.parameters()), (other.buffers(), model.buffers())):
        assert all(a is b for a, b in zip(mine, own, strict=True))
    assert not set(other.modules()) & set(model.modules())
    assert list(dict(other.named_modules())) == list(dict(model.named_modules()))


def test_a_module_used_twice_is_used_twice_in_the_twin():
    shared = nn.Linear(3, 3)
    other = twin(nn.Sequential(shared, nn.Tanh(), shared))
    assert other[0] is other[2] is not shared


def test_hooks_modes_and_attributes_of_a_twin_stay_with_it():
    model, seen = small_model().train(), []
    model.norm.register_forward_hook(lambda *_: seen.append("model's"))
    other, tokens = twin(model), random_tokens(model.config)
    other.eval().norm.register_forward_hook(lambda *_: seen.append("twin's"))
    other.layers[1].mlp.shared_experts = None
    assert all(module.training for module in model.modules())
    model(tokens)
    assert seen == ["model's"] and model.layers[1].mlp.shared_experts is not None
    other(tokens)
    assert seen == ["model's", "model's", "twin's"]


def test_a_gradient_through_a_twin_reaches_the_model():
    model = small_model()
    twin(model)(random_tokens(model.config)).sum().backward()
    assert all(own.grad is not None for own in (model.norm.weight, model.embed_tokens.weight))


def test_a_shadow_is_used_but_not_registered():
    layer = nn.Linear(2, 2, bias=False)
    other = twin(layer)
    shadow(other, "weight", torch.zeros(2, 2))
    assert other(torch.ones(1, 2)).abs().max() == 0
    assert other.state_dict()["weight"].equal(layer.weight) and layer(torch.ones(1, 2)).any()
