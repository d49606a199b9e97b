"""Errors name the bad argument, what was expected and what it got."""

import pytest
import torch

from mini_moe.ops import moe_experts
from tests.helpers import without_shape_hook
from tests.kernels.cpu import needs_library
from tests.ops.expert_cases import random_case

pytestmark = needs_library

FORWARD = ["x", "expert_ids", "gates", "gate_up_proj", "down_proj"]
BAD = {
    "x": [torch.zeros(3, 11), torch.zeros(36), torch.zeros(3, 12, dtype=torch.float64)],
    "expert_ids": [torch.zeros(4, 2).long(), torch.zeros(3, 0).long(), torch.zeros(3, 2).int()],
    "gates": [torch.zeros(3, 1), torch.zeros(3, 2, dtype=torch.float16)],
    "gate_up_proj": [torch.zeros(4, 20, 12), torch.zeros(4, 2, 10, 12, dtype=torch.bfloat16)],
    "down_proj": [torch.zeros(4, 10, 12), torch.zeros(4, 12, 10, dtype=torch.bfloat16)],
}


def arguments(name: str, value: torch.Tensor) -> list[torch.Tensor]:
    case = random_case(3, 2, 4)._replace(**{name: value})
    return [tensor.detach() for tensor in case]


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, bad in BAD.items() for v in bad])
def test_argument_that_does_not_fit_is_named_by_the_library(name, value):
    with pytest.raises(RuntimeError, match=r"mini_moe: \w+: .*expected, got") as error:
        torch.ops.mini_moe.experts_forward(*arguments(name, value), True)
    mentioned = str(error.value).partition("mini_moe: ")[2].partition(":")[0]
    # sizes are compared with those of weights and ids, so the error may name the other side
    assert mentioned in {name, "x", "gates", "down_proj", "gate_up_proj"}


@pytest.mark.parametrize("bad", [-1, 4, 2**62, -(2**62)])
@pytest.mark.parametrize("tokens", [3, 100])
def test_expert_out_of_range_is_refused_before_memory_is_touched(bad, tokens):
    case = random_case(tokens, 2, 4)
    case.expert_ids[1, 1] = bad
    with pytest.raises(ValueError, match=r"^expert_ids must lie in \[0, 4\), got"):
        moe_experts(*case)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("grad", torch.zeros(3, 11)),
        ("grad", torch.zeros(3, 12, dtype=torch.bfloat16)),
        ("saved", torch.zeros(5, 20)),
        ("saved", torch.zeros(6, 20, dtype=torch.bfloat16)),
    ],
)
def test_gradient_that_does_not_fit_is_named(name, value):
    case = [tensor.detach() for tensor in random_case(3, 2, 4)]
    fitting = {"grad": torch.zeros(3, 12), "saved": torch.zeros(6, 20)} | {name: value}
    with pytest.raises(RuntimeError, match=f"mini_moe: {name}: .*expected, got"):
        torch.ops.mini_moe.experts_backward(fitting["grad"], *case, fitting["saved"])


def test_types_of_weights_that_differ_are_named():
    case = random_case(3, 2, 4)
    mixed = case._replace(down_proj=case.down_proj.detach().bfloat16())
    with without_shape_hook(), pytest.raises(ValueError, match="down_proj: float32 expected"):
        moe_experts(*mixed)
