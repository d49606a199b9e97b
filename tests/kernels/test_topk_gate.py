"""The compiled gate equals `route`, exactly in its choice, and so does its gradient."""

from dataclasses import replace

import pytest
import torch

from mini_moe import presets
from mini_moe.checker import DTYPES
from mini_moe.model.router import choose, route

V3 = dict(n_expert_groups=8, top_k_groups=4)
CASES = [  # experts, top_k, other fields of the config
    (1, 1, {}),
    (8, 2, {"norm_topk_prob": False}),
    (16, 4, {}),
    (33, 6, {"score_function": "softmax", "norm_topk_prob": False}),
    (64, 6, {"score_function": "softmax", "route_scale": 1.0}),
    (60, 5, dict(n_expert_groups=6, top_k_groups=2)),
    (100, 7, dict(n_expert_groups=5, top_k_groups=3, group_score="max")),
    (64, 6, dict(n_expert_groups=2, top_k_groups=1)),
    (96, 7, dict(n_expert_groups=3, top_k_groups=2, group_score="max")),
    (128, 8, {"score_function": "softmax"}),
    (160, 6, dict(n_expert_groups=8, top_k_groups=3, group_score="max", score_function="softmax")),
    (256, 8, V3),
    (256, 32, V3),
    (384, 8, {}),
    (1000, 32, dict(n_expert_groups=10, top_k_groups=7)),
    (1024, 3, dict(n_expert_groups=32, top_k_groups=5)),
]


def config_for(experts, top_k, fields):
    fields = {"route_scale": 2.5, **fields}
    return replace(presets.tiny(), n_routed_experts=experts, top_k=top_k, **fields)


def run_gate(kernels, logits, bias, config, with_scores=True):
    """Return the kernel's (scores, choice_scores, expert_ids, gates)."""
    tokens, experts = logits.shape
    scores = kernels.output("scores", (tokens, experts), torch.float32) if with_scores else None
    choice = (
        kernels.output("choice_scores", (tokens, experts), torch.float32) if with_scores else None
    )
    ids = kernels.output("expert_ids", (tokens, config.top_k), torch.int64)
    gates = kernels.output("gates", (tokens, config.top_k), torch.float32)
    kernels.call(
        "topk_gate_forward",
        kernels.input("logits", logits),
        DTYPES[logits.dtype],
        None if bias is None else kernels.input("bias", bias),
        0 if bias is None else DTYPES[bias.dtype],
        scores,
        choice,
        ids,
        gates,
        tokens,
        *settings(config),
    )
    outputs = [buffer for buffer in (scores, choice, ids, gates) if buffer is not None]
    assert not any(map(kernels.unwritten, outputs))
    return scores, choice, ids, gates


def settings(config):
    return (
        config.n_routed_experts,
        config.top_k,
        config.n_expert_groups,
        config.top_k_groups,
        config.group_score == "top2_sum",
        config.score_function == "softmax",
        config.norm_topk_prob,
        float(config.route_scale),
    )


def assert_same_routing(kernels, logits, bias, config):
    scores, choice, ids, gates = run_gate(kernels, logits, bias, config)
    expected = route(logits.float(), None if bias is None else bias.float(), config)
    assert ids.equal(expected.expert_ids)
    torch.testing.assert_close(scores, expected.scores, equal_nan=True)
    torch.testing.assert_close(choice, expected.choice_scores, equal_nan=True)
    torch.testing.assert_close(gates, expected.gates, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("experts", "top_k", "fields"), CASES)
def test_gate_equals_route(kernels, experts, top_k, fields, dtype):
    logits, bias = torch.randn(11, experts).to(dtype), torch.randn(experts) / 10
    config = config_for(experts, top_k, fields)
    assert_same_routing(kernels, logits, bias, config)


@pytest.mark.parametrize("top_k", range(1, 9))
def test_every_top_k(kernels, top_k):
    assert_same_routing(kernels, torch.randn(9, 20), None, config_for(20, top_k, {}))


@pytest.mark.parametrize("tokens", [1, 7, 8, 9, 65])
def test_every_number_of_tokens(kernels, tokens):
    assert_same_routing(kernels, torch.randn(tokens, 16), None, config_for(16, 4, {}))


def test_no_tokens(kernels):
    *_, ids, _ = run_gate(kernels, torch.randn(0, 16), None, config_for(16, 4, {}))
    assert ids.shape == (0, 4)


def test_bias_of_bf16(kernels):
    bias = torch.randn(16).bfloat16()
    assert_same_routing(kernels, torch.randn(9, 16), bias, config_for(16, 6, {}))


@pytest.mark.parametrize("fields", [{}, *(dict(n_expert_groups=n, top_k_groups=2) for n in (2, 8))])
def test_ties_go_to_the_lower_id(kernels, fields):
    """With only three distinct scores, nearly everything is a tie."""
    logits = torch.randint(0, 3, (40, 64)).float()
    assert_same_routing(kernels, logits, None, config_for(64, 8, fields))


def test_all_equal_gives_the_first_ids(kernels):
    *_, ids, _ = run_gate(kernels, torch.zeros(3, 40), None, config_for(40, 8, {}))
    assert ids.equal(torch.arange(8).expand(3, 8))


@pytest.mark.parametrize("score_function", ["sigmoid", "softmax"])
@pytest.mark.parametrize("groups", [{}, dict(n_expert_groups=4, top_k_groups=2)])
@pytest.mark.parametrize("experts", [32, 128])  # groups of 8, and of all lanes
def test_nan_and_infinity_never_repeat_an_id(kernels, score_function, groups, experts):
    logits = torch.randn(12, experts)
    logits[0] = torch.nan
    logits[1, 5] = torch.nan
    logits[2, ::3] = torch.nan
    logits[3] = -torch.inf
    logits[4, 7], logits[5, 9] = torch.inf, -torch.inf
    config = config_for(experts, 8, {"score_function": score_function, **groups})
    assert_same_routing(kernels, logits, None, config)
    *_, ids, _ = run_gate(kernels, logits, None, config)
    assert all(len(row.unique()) == 8 for row in ids)


def test_bias_of_minus_infinity_switches_an_expert_off(kernels):
    bias = torch.zeros(32)
    bias[::2] = -torch.inf
    config = config_for(32, 6, dict(n_expert_groups=4, top_k_groups=2))
    assert_same_routing(kernels, torch.randn(9, 32), bias, config)


def test_scores_are_optional(kernels):
    config = config_for(32, 6, {})
    logits = torch.randn(9, 32)
    *_, ids, _ = run_gate(kernels, logits, None, config, with_scores=False)
    assert ids.equal(choose(logits.sigmoid(), 6))


def test_order_of_threads_and_blocks_does_not_matter(kernels):
    config = config_for(64, 8, dict(n_expert_groups=8, top_k_groups=3))
    logits = torch.randn(20, 64)
    forward = run_gate(kernels, logits, None, config)
    with kernels.reversed_order():
        backward = run_gate(kernels, logits, None, config)
    assert all(a.equal(b) for a, b in zip(forward, backward, strict=True))


def run_backward(kernels, logits, routing, grad_gates, grad_scores, config):
    tokens, experts = logits.shape
    grad_logits = kernels.output("grad_logits", logits.shape, logits.dtype)
    strides = (0, 0) if grad_gates is None else grad_gates.stride()
    if grad_gates is not None:
        storage = kernels.input("grad_gates", grad_gates.as_strided((extent(grad_gates),), (1,)))
        grad_gates = storage
    kernels.call(
        "topk_gate_backward",
        grad_gates,
        *strides,
        None if grad_scores is None else kernels.input("grad_scores", grad_scores),
        kernels.input("logits", logits),
        DTYPES[logits.dtype],
        kernels.input("expert_ids", routing.expert_ids),
        grad_logits,
        tokens,
        experts,
        config.top_k,
        config.score_function == "softmax",
        config.norm_topk_prob,
        float(config.route_scale),
    )
    assert kernels.unwritten(grad_logits) == 0
    return grad_logits


def extent(tensor):
    """Count the elements from the first to the last one that the strides reach."""
    return 1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))


GRADIENTS = {
    "dense": lambda t, k: torch.randn(t, k),
    "expanded": lambda t, k: torch.randn(1).expand(t, k),
    "expanded rows": lambda t, k: torch.randn(1, k).expand(t, k),
    "transposed": lambda t, k: torch.randn(k, t).T,
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", GRADIENTS)
@pytest.mark.parametrize("scores_too", [False, True])
@pytest.mark.parametrize(("experts", "top_k", "fields"), CASES[2:11:2])
def test_gradient_equals_autograd(kernels, experts, top_k, fields, scores_too, kind, dtype):
    config = config_for(experts, top_k, fields)
    logits = torch.randn(9, experts).to(dtype)
    grad_gates = GRADIENTS[kind](9, top_k)
    grad_scores = torch.randn(9, experts) if scores_too else None
    leaf = logits.float().requires_grad_()
    routing = route(leaf, None, config)
    total = (routing.gates * grad_gates).sum()
    if scores_too:
        total = total + (routing.scores * grad_scores).sum()
    total.backward()
    found = run_backward(kernels, logits, routing, grad_gates, grad_scores, config)
    torch.testing.assert_close(found, leaf.grad.to(dtype))


def test_gradient_of_scores_alone(kernels):
    config = config_for(16, 4, {"score_function": "softmax"})
    logits = torch.randn(9, 16, requires_grad=True)
    routing = route(logits, None, config)
    grad_scores = torch.randn(9, 16)
    (routing.scores * grad_scores).sum().backward()
    found = run_backward(kernels, logits.detach(), routing, None, grad_scores, config)
    torch.testing.assert_close(found, logits.grad)


WRONG = {
    "n_experts: expected 1 to 1024, got 1025": dict(n_experts=1025),
    "n_experts: expected 1 to 1024, got 0": dict(n_experts=0),
    "top_k: expected 1 to 32 and at most n_experts=16, got 33": dict(top_k=33),
    "top_k: expected 1 to 32 and at most n_experts=16, got 17": dict(top_k=17),
    "n_groups: expected 1 to 32 and a divisor of n_experts=16, got 3": dict(n_groups=3),
    "top_k_groups: expected 1 to n_groups=4, got 5": dict(n_groups=4, top_k_groups=5),
    "top_k: expected at most the 4 experts of top_k_groups": dict(n_groups=4, top_k=5),
    "two_best: expected groups of at least two": dict(n_groups=16, top_k_groups=8),
    "n_tokens: expected 0 to": dict(n_tokens=-1),
    "logits: expected fp32": dict(logits_type=2),
    "route_scale: expected a finite number": dict(route_scale=float("nan")),
}


@pytest.mark.parametrize("message", WRONG)
def test_bad_arguments_are_refused_by_name(kernels, message):
    given = dict(
        logits_type=0, n_tokens=2, n_experts=16, top_k=4, n_groups=1, top_k_groups=1,
        two_best=1, softmax=0, normalise=1, route_scale=1.0,
    )  # fmt: skip
    given |= WRONG[message]
    logits_type = given.pop("logits_type")
    with pytest.raises(ValueError) as error:
        kernels.call(
            "topk_gate_forward", None, logits_type, *[None, 0, *[None] * 4], *given.values()
        )
    assert message in str(error.value)
