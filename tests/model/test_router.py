"""The router's rules: the choice, the gates, ties, and the limit on groups."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mini_moe.model.router import Router, route
from tests.config_strategy import expert_fields
from tests.helpers import small_config


@st.composite
def routed(draw):
    """Draw a valid router config, its decisions for random logits with many ties, and the bias."""
    config = small_config(**draw(expert_fields()))
    draws = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    shape = (draw(st.integers(1, 12)), config.n_routed_experts)
    logits = torch.randn(shape, generator=draws)
    if draw(st.booleans()):
        logits = logits.round()
    bias = torch.randn(shape[1], generator=draws) if config.expert_bias else None
    return config, route(logits, bias, config), bias


def brute_force(scores, bias, config):
    """Choose one token's experts by the paper's rules, using only sorts by (−value, index)."""
    choice = [s + (bias[i] if bias is not None else 0) for i, s in enumerate(scores)]
    size = len(choice) // config.n_expert_groups
    groups = [choice[g * size : (g + 1) * size] for g in range(config.n_expert_groups)]
    best = 2 if config.group_score == "top2_sum" else 1
    worth = [sum(sorted(group, reverse=True)[:best]) for group in groups]
    kept = sorted(range(len(groups)), key=lambda g: (-worth[g], g))[: config.top_k_groups]
    allowed = [i for i in range(len(choice)) if i // size in kept]
    return sorted(allowed, key=lambda i: (-choice[i], i))[: config.top_k]


@settings(max_examples=200, deadline=None)
@given(routed())
def test_choice_follows_the_rules_applied_by_hand(case):
    config, routing, bias = case
    for scores, ids in zip(routing.scores, routing.expert_ids, strict=True):
        # added in fp32, as in the router, because rounding decides ties
        given_bias = None if bias is None else list(bias)
        assert ids.tolist() == brute_force(list(scores), given_bias, config)


@settings(max_examples=100, deadline=None)
@given(routed())
def test_token_never_leaves_its_groups_and_no_expert_is_repeated(case):
    config, routing, _ = case
    size = config.n_routed_experts // config.n_expert_groups
    for ids in routing.expert_ids.tolist():
        assert len(set(ids)) == config.top_k
        assert len({i // size for i in ids}) <= config.top_k_groups


@settings(max_examples=100, deadline=None)
@given(routed())
def test_gates_are_the_raw_scores_of_the_chosen(case):
    config, routing, _ = case
    chosen = routing.scores.gather(-1, routing.expert_ids).double()
    if config.norm_topk_prob:
        chosen = chosen / chosen.sum(-1, keepdim=True)
        total = routing.gates.double().sum(-1)
        assert torch.allclose(total, torch.full_like(total, config.route_scale), rtol=1e-5)
    assert torch.allclose(routing.gates.double(), chosen * config.route_scale, rtol=1e-5)


@settings(max_examples=50, deadline=None)
@given(routed())
def test_experts_are_listed_best_choice_first(case):
    _, routing, _ = case
    chosen = routing.choice_scores.gather(-1, routing.expert_ids)
    assert (chosen.diff(dim=-1) <= 0).all()


def test_bias_changes_choice_but_not_gates():
    config = small_config(norm_topk_prob=False, route_scale=1.0)
    logits = torch.randn(20, 8)
    bias = torch.zeros(8)
    bias[3] = 10.0
    plain, pushed = route(logits, torch.zeros(8), config), route(logits, bias, config)
    assert (pushed.expert_ids[:, 0] == 3).all() and not (plain.expert_ids[:, 0] == 3).all()
    assert torch.equal(pushed.gates[:, 0], logits[:, 3].sigmoid())
    assert torch.equal(pushed.scores, plain.scores)


def test_bias_receives_no_gradient():
    logits = torch.randn(5, 8, requires_grad=True)
    bias = torch.zeros(8, requires_grad=True)
    routing = route(logits, bias, small_config())
    (routing.gates * torch.arange(10.0).view(5, 2)).sum().backward()
    assert bias.grad is None and logits.grad.any()


@pytest.mark.parametrize(
    ("top_k", "norm", "reaches"), [(1, True, False), (1, False, True), (2, True, True)]
)
def test_one_renormalised_gate_gives_the_router_no_gradient(top_k, norm, reaches):
    """This is why top_k = 1 needs norm_topk_prob = False: a number divided by itself is 1."""
    logits = torch.randn(50, 8, requires_grad=True)
    routing = route(logits, torch.zeros(8), small_config(top_k=top_k, norm_topk_prob=norm))
    weighted = routing.gates * torch.randn(50, top_k)
    (gradient,) = torch.autograd.grad(weighted.sum(), logits)
    assert bool(gradient.abs().max() > 1e-4) is reaches


def test_ties_go_to_the_lower_id():
    config = small_config(n_routed_experts=64, top_k=8)
    routing = route(torch.zeros(3, 64), torch.zeros(64), config)
    assert routing.expert_ids.tolist() == 3 * [list(range(8))]


def test_excluded_group_stays_out_even_when_all_kept_scores_are_negative():
    """Scores .9 .2 .3 .1, bias −.5 on the second: masking with 0.0 would choose {0, 2}."""
    logits = torch.tensor([[0.9, 0.2, 0.3, 0.1]]).logit()
    bias = torch.tensor([0.0, -0.5, 0.0, 0.0])
    config = small_config(n_routed_experts=4, n_expert_groups=2, top_k_groups=1, top_k=2)
    routing = route(logits, bias, config)
    assert routing.expert_ids.tolist() == [[0, 1]]
    assert routing.choice_scores[0, 2:].tolist() == [-math.inf, -math.inf]


def test_softmax_scores_sum_to_one_and_sigmoid_scores_are_independent():
    logits = torch.randn(6, 8)
    soft = route(logits, None, small_config(score_function="softmax", expert_bias=False)).scores
    assert torch.allclose(soft.sum(-1), torch.ones(6))
    changed = logits.clone()
    changed[:, 0] += 5
    before, after = (route(x, None, small_config()).scores for x in (logits, changed))
    assert torch.equal(before[:, 1:], after[:, 1:])


def test_extreme_logits_give_finite_gates():
    for size in (1e4, -1e4):
        routing = route(torch.full((1, 8), size), torch.zeros(8), small_config())
        assert routing.gates.isfinite().all()


@pytest.mark.parametrize("d_model", [64, 128, 256, 512, 1024])
def test_fresh_router_logits_spread_like_those_of_deepseek_v3(d_model):
    """0.006·√7168 = 0.508 for normalised inputs of any width."""
    torch.manual_seed(0)
    config = small_config(d_model=d_model, n_routed_experts=64)
    router = Router(config)
    torch.nn.init.normal_(router.weight, std=config.weight_std)
    x = torch.nn.functional.rms_norm(torch.randn(2000, d_model), [d_model])
    assert router(x).logits.std().item() == pytest.approx(0.508, rel=0.05)


def test_router_computes_in_single_precision_under_autocast_and_in_bfloat16():
    router = Router(small_config())
    torch.nn.init.normal_(router.weight)
    x = torch.randn(7, 32)
    expected = router(x)
    with torch.autocast("cpu", torch.bfloat16):
        found = router(x)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    half = router.bfloat16()(x.bfloat16())
    assert half.scores.dtype == half.gates.dtype == torch.float32
