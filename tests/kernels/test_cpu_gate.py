"""The compiled gate against the router's own steps."""

import dataclasses

import pytest
import torch

from mini_moe.model.router import Router, route
from mini_moe.ops import choose, use
from tests.helpers import CHAIN_TOLERANCE, TOLERANCE, relative_error, small_config
from tests.kernels.cpu import NAMES, instructions, needs_library

pytestmark = needs_library
# experts, top_k, groups, groups kept
SIZES = [(1, 1, 1, 1), (7, 3, 1, 1), (12, 6, 3, 2), (64, 8, 8, 4), (256, 8, 8, 4), (1000, 32, 1, 1)]


def settings(size, score="sigmoid", best="top2_sum", normalise=True):
    experts, top_k, groups, kept = size
    return dataclasses.replace(
        small_config(n_routed_experts=max(experts, 2)),
        n_routed_experts=experts,
        top_k=top_k,
        n_expert_groups=groups,
        top_k_groups=kept,
        score_function=score,
        group_score=best,
        norm_topk_prob=normalise,
    )


def gate(logits, bias, config):
    return torch.ops.mini_moe.topk_gate(
        logits,
        bias,
        config.top_k,
        config.n_expert_groups,
        config.top_k_groups,
        config.group_score == "top2_sum",
        config.score_function == "softmax",
        config.norm_topk_prob,
        config.route_scale,
    )


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("score", ["sigmoid", "softmax"])
@pytest.mark.parametrize("best", ["top2_sum", "max"])
@pytest.mark.parametrize("normalise", [True, False])
def test_gate_equals_the_router(size, score, best, normalise):
    config = settings(size, score, best, normalise)
    logits = torch.randn(50, size[0], requires_grad=True)
    bias = torch.randn(size[0]) * 0.1
    gates, ids, scores, choice_scores = gate(logits, bias, config)
    expected = route(logits, bias, config)
    assert torch.equal(ids, expected.expert_ids)
    assert relative_error(gates, expected.gates) <= TOLERANCE[torch.float32]
    assert relative_error(scores, expected.scores) <= TOLERANCE[torch.float32]
    assert torch.equal(choice_scores.isinf(), expected.choice_scores.isinf())
    assert torch.allclose(choice_scores, expected.choice_scores, rtol=2e-6, atol=2e-6)
    weights = torch.linspace(-1, 1, gates.numel()).view(gates.shape)
    ours = torch.autograd.grad((gates * weights).sum() + scores.square().sum(), logits)[0]
    loss = (expected.gates * weights).sum() + expected.scores.square().sum()
    assert (
        relative_error(ours, torch.autograd.grad(loss, logits)[0]) <= CHAIN_TOLERANCE[torch.float32]
    )


@pytest.mark.parametrize("name", NAMES)
def test_every_instruction_set_scores_alike(name):
    config = settings((40, 5, 1, 1))
    with instructions(name):
        for dtype in (torch.float32, torch.bfloat16):
            logits = torch.randn(30, 40).to(dtype)
            gates, ids, *_ = gate(logits, None, config)
            expected = route(logits.float(), None, config)
            assert torch.equal(ids, expected.expert_ids)
            assert relative_error(gates, expected.gates) <= TOLERANCE[torch.float32]


@pytest.mark.parametrize("groups", [(1, 1), (4, 2)])
def test_ties_go_to_the_lower_id(groups):
    _, ids, *_ = gate(torch.zeros(3, 16), None, settings((16, 5, *groups)))
    assert ids.tolist() == [[0, 1, 2, 3, 4]] * 3


@pytest.mark.parametrize("score", ["sigmoid", "softmax"])
@pytest.mark.parametrize("groups", [(1, 1), (4, 2)])
def test_nan_never_repeats_an_expert(groups, score):
    logits = torch.randn(20, 16)
    logits[3] = torch.nan
    logits[5, ::2] = torch.nan
    logits[7, 2:] = -torch.inf
    logits[8, 4] = torch.inf
    _, ids, *_ = gate(logits, None, settings((16, 6, *groups), score))
    assert all(len(set(row)) == 6 and max(row) < 16 for row in ids.tolist())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"top_k": 9}, "top_k: "),
        ({"top_k": 0}, "top_k: "),
        ({"n_expert_groups": 3}, "n_groups: "),
        ({"n_expert_groups": 4, "top_k_groups": 5}, "top_k_groups: "),
        ({"n_expert_groups": 4, "top_k_groups": 1, "top_k": 3}, "top_k: at most the 2 experts"),
    ],
)
def test_setting_that_does_not_fit_is_named(change, named):
    values = {"top_k": 2, "n_expert_groups": 1, "top_k_groups": 1} | change
    arguments = (values["top_k"], values["n_expert_groups"], values["top_k_groups"])
    with pytest.raises(RuntimeError, match=f"mini_moe: {named}"):
        torch.ops.mini_moe.topk_gate(torch.zeros(3, 8), None, *arguments, True, False, True, 1.0)
    with pytest.raises(RuntimeError, match="mini_moe: bias: "):
        torch.ops.mini_moe.topk_gate(
            torch.zeros(3, 8), torch.zeros(7), 2, 1, 1, True, False, True, 1.0
        )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("n", "k"), [(1, 1), (5, 5), (16, 4), (17, 3), (100, 32), (256, 8)])
def test_choice_is_that_of_a_stable_sort(name, n, k):
    values = torch.randn(40, n).mul(4).round()  # full of ties, zeros of both signs among them
    values[3] = -torch.inf
    values[4, ::2] = torch.inf
    with instructions(name):
        ids = choose(values, k)
    assert torch.equal(ids, values.sort(dim=-1, descending=True, stable=True).indices[:, :k])


@pytest.mark.parametrize("name", NAMES)
def test_nan_is_chosen_first(name):
    values = torch.full((2, 20), torch.nan)
    values[0, [4, 9]] = torch.tensor([-torch.inf, 1.0])
    with instructions(name):
        assert torch.equal(choose(values, 20), values.sort(descending=True, stable=True).indices)
        assert choose(values, 4).tolist() == [[0, 1, 2, 3], [0, 1, 2, 3]]


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("score", ["sigmoid", "softmax"])
def test_router_decides_compiled_as_it_does_step_by_step(groups, score):
    config = small_config(
        n_routed_experts=16,
        n_expert_groups=groups,
        top_k_groups=min(groups, 2),
        score_function=score,
    )
    router = Router(config)
    torch.nn.init.normal_(router.weight)
    router.e_score_correction_bias.normal_(std=0.1)
    x = torch.randn(50, config.d_model)
    x[7] = torch.nan
    ours = router(x)
    with use("pytorch"):
        expected = router(x)
    assert torch.equal(ours.expert_ids, expected.expert_ids)
    for name in ("logits", "scores", "choice_scores", "gates"):
        one, two = getattr(ours, name), getattr(expected, name)
        assert torch.allclose(one, two, atol=1e-6, equal_nan=True), name
