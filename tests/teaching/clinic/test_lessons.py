"""What the lesson claims about routing, without any training."""

import torch

from mini_moe.model.router import route
from mini_moe.teaching.clinic.difference import changed_lines, statements
from tests.helpers import small_config


def test_one_renormalised_gate_gives_the_router_no_gradient():
    for top_k, norm, reaches in ((1, True, False), (1, False, True), (2, True, True)):
        logits = torch.randn(50, 8, requires_grad=True)
        routing = route(logits, torch.zeros(8), small_config(top_k=top_k, norm_topk_prob=norm))
        weighted = routing.gates * torch.randn(50, top_k)
        (gradient,) = torch.autograd.grad(weighted.sum(), logits)
        assert bool(gradient.abs().max() > 1e-4) is reaches


def test_a_changed_line_is_one_minus_and_one_plus():
    assert changed_lines(["a", "b", "c"], ["a", "B", "c"]) == ["-b", "+B"]
    assert changed_lines(["a"], ["a"]) == []


def test_docstrings_and_comments_are_no_statements():
    def documented(x):
        """Twice.

        Over several lines.
        """
        # why
        y = x + x
        return y

    assert statements(documented) == ["y = x + x", "return y"]
