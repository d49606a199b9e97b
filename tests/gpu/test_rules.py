"""The layer keeps the rules of custom operations, and torch.compile's."""

import pytest
import torch
from torch.library import opcheck

from mini_moe.ops import moe_experts
from tests.gpu.common import DTYPES, needs_gpu, no_rehearsal, on_gpu
from tests.helpers import TOLERANCE, relative_error, without_shape_hook
from tests.ops.expert_cases import random_case

pytestmark = needs_gpu
OPS = torch.ops.mini_moe


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_operation_keeps_the_rules_of_custom_operations(dtype):
    case = on_gpu(random_case(64, 2, 5, 64, 32, dtype))
    with torch.no_grad():
        mixed, saved = OPS.experts_forward(*case, True)
    backward = (torch.randn_like(mixed), *(t.detach() for t in case), saved)
    with without_shape_hook():  # opcheck passes symbolic sizes
        opcheck(OPS.experts_forward, (*case, True))
        opcheck(OPS.experts_backward, backward)


@pytest.mark.compile
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=no_rehearsal)])
def test_whole_operation_compiles_without_a_break(backend):
    case = on_gpu(random_case(64, 2, 4, 64, 32))
    grad = torch.randn_like(case.x)
    compiled = torch.compile(moe_experts, fullgraph=True, backend=backend)
    output = compiled(*case)
    expected = moe_experts(*case)
    found = [output, *torch.autograd.grad(output, case.leaves, grad)]
    expected = [expected, *torch.autograd.grad(expected, case.leaves, grad)]
    for ours, theirs in zip(found, expected, strict=True):
        assert relative_error(ours, theirs) <= TOLERANCE[torch.float32]
