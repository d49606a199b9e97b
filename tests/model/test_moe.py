"""MoE layers of other families are just configurations: DeepSeek-V2 and Mixtral as oracles."""

import pytest
import torch
from transformers import DeepseekV2Config, MixtralConfig
from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2Moe
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

from mini_moe.model.layers import SwiGLU
from mini_moe.model.moe import MoE
from tests.helpers import CHAIN_TOLERANCE, TOLERANCE, relative_error, small_config

V2_ROUTER = {
    "score_function": "softmax",
    "expert_bias": False,
    "norm_topk_prob": False,
    "group_score": "max",
}
MIXTRAL_ROUTER = {
    "score_function": "softmax",
    "expert_bias": False,
    "n_shared_experts": 0,
    "route_scale": 1.0,
}


def copy_weights(theirs, ours):
    """Copy their weights; both stack the experts, but ours keeps gate and up apart."""
    given = dict(theirs.named_parameters())
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            parameter.copy_(given.pop(name).reshape(parameter.shape))
    assert not given


def assert_same_layer(theirs, config):
    """Assert that outputs and all gradients agree."""
    torch.manual_seed(0)
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    ours = MoE(config)
    copy_weights(theirs, ours)
    x = torch.randn(2, 20, config.d_model)
    expected, output = theirs(x), ours(x)
    assert relative_error(output, expected) <= TOLERANCE[torch.float32]
    weights = torch.randn_like(output)
    (expected * weights).sum().backward()
    (output * weights).sum().backward()
    given = dict(theirs.named_parameters())
    noise = 1e-7 * max(parameter.grad.norm() for parameter in given.values())
    for name, parameter in ours.named_parameters():
        expected_gradient = given[name].grad.reshape(parameter.shape)
        error = (parameter.grad - expected_gradient).norm()
        assert error <= CHAIN_TOLERANCE[torch.float32] * expected_gradient.norm() + noise, name


@pytest.mark.parametrize(("groups", "kept"), [(1, 1), (4, 2), (8, 3)])
def test_layer_matches_deepseek_v2(groups, kept):
    theirs = DeepseekV2Config(
        hidden_size=32,
        moe_intermediate_size=16,
        n_routed_experts=16,
        n_shared_experts=2,
        num_experts_per_tok=4,
        n_group=groups,
        topk_group=kept,
        topk_method="greedy" if groups == 1 else "group_limited_greedy",
        routed_scaling_factor=16.0,
    )
    config = small_config(
        n_routed_experts=16,
        n_shared_experts=2,
        top_k=4,
        n_expert_groups=groups,
        top_k_groups=kept,
        route_scale=16.0,
        **V2_ROUTER,
    )
    assert_same_layer(DeepseekV2Moe(theirs), config)


@pytest.mark.parametrize("top_k", [1, 2, 8])
def test_layer_matches_mixtral(top_k):
    theirs = MixtralConfig(
        hidden_size=32, intermediate_size=16, num_local_experts=8, num_experts_per_tok=top_k
    )
    config = small_config(top_k=top_k, **MIXTRAL_ROUTER)
    assert_same_layer(MixtralSparseMoeBlock(theirs), config)


def test_one_expert_that_gets_every_token_is_a_dense_network():
    config = small_config(
        n_routed_experts=1, n_shared_experts=0, top_k=1, route_scale=1.0, d_expert=48
    )
    torch.manual_seed(0)
    moe, dense = MoE(config), SwiGLU(32, 48)
    torch.nn.init.normal_(moe.gate.weight)
    with torch.no_grad():
        moe.experts.gate_up_proj[0, 0] = dense.gate_proj.weight
        moe.experts.gate_up_proj[0, 1] = dense.up_proj.weight
        moe.experts.down_proj[0] = dense.down_proj.weight
    x = torch.randn(2, 5, 32)
    assert relative_error(moe(x), dense(x)) <= TOLERANCE[torch.float32]


def test_wide_shared_expert_is_the_sum_of_narrow_ones():
    torch.manual_seed(0)
    wide = SwiGLU(32, 2 * 16)
    halves = []
    for half in range(2):
        narrow, rows = SwiGLU(32, 16), slice(16 * half, 16 * half + 16)
        narrow.gate_proj.weight.data = wide.gate_proj.weight[rows]
        narrow.up_proj.weight.data = wide.up_proj.weight[rows]
        narrow.down_proj.weight.data = wide.down_proj.weight[:, rows]
        halves.append(narrow)
    x = torch.randn(3, 32)
    assert relative_error(sum(part(x) for part in halves), wide(x)) <= TOLERANCE[torch.float32]


def test_order_of_tokens_does_not_matter():
    torch.manual_seed(0)
    moe = MoE(small_config())
    for parameter in moe.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x = torch.randn(1, 30, 32)
    shuffle = torch.randperm(30)
    assert relative_error(moe(x)[:, shuffle], moe(x[:, shuffle])) <= TOLERANCE[torch.float32]
