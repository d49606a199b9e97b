"""The host never waits for the GPU: graphs, streams, devices, and sizes that need a GPU."""

import pytest
import torch

from mini_moe.ops import moe_experts
from tests.gpu.common import (
    DEVICE,
    DTYPES,
    assert_same_bits,
    on_gpu,
    only_gpu,
    poison,
    random_grad,
    run,
    zipf_ids,
)
from tests.helpers import TOLERANCE, relative_error
from tests.ops.expert_cases import random_case, with_ids

pytestmark = only_gpu


def both_ways(case, grad):
    """Return output and gradients, with nothing between the passes."""
    output = moe_experts(*case)
    return [output.detach(), *torch.autograd.grad(output, case.leaves, grad)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_host_never_waits_for_the_gpu(dtype):
    case = on_gpu(random_case(300, 4, 16, 64, 32, dtype))
    grad = random_grad(case).to(DEVICE)
    both_ways(case, grad)
    torch.cuda.set_sync_debug_mode("error")
    try:
        both_ways(case, grad)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_graph_replays_with_other_numbers_and_another_routing(dtype):
    case = on_gpu(random_case(300, 4, 16, 64, 32, dtype))
    grad = random_grad(case).to(DEVICE)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            both_ways(case, grad)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = both_ways(case, grad)
    routings = [zipf_ids(300, 4, 16), case.expert_ids.cpu(), torch.full((300, 4), 5)]
    for seed, ids in enumerate(routings):
        other = with_ids(random_case(300, 4, 16, 64, 32, dtype, seed), ids)
        with torch.no_grad():
            for to, source in zip(case, other, strict=True):
                to.copy_(source)
        poison()
        graph.replay()
        torch.cuda.synchronize()
        found = [tensor.clone() for tensor in captured]
        assert_same_bits(found, run(other, grad))


def test_work_goes_to_the_current_stream():
    """The input is written late on another stream: a kernel that does not wait reads NaN."""
    case = random_case(300, 4, 16, 64, 32, torch.bfloat16)
    grad = random_grad(case).to(DEVICE)
    expected = run(case, grad)
    here = on_gpu(case)
    values = here.x.detach().clone()
    with torch.no_grad():
        here.x.fill_(torch.nan)
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        torch.cuda._sleep(200_000_000)
        with torch.no_grad():
            here.x.copy_(values)
        found = both_ways(here, grad)
    side.synchronize()
    assert_same_bits(found, expected)


def test_second_device_is_used_if_tensors_are_there():
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    case = random_case(100, 4, 16, 64, 32)
    grad = random_grad(case)
    expected = run(case, grad)
    there = [tensor.detach().to("cuda:1") for tensor in case]
    leaves = type(case)(*(t.requires_grad_(t.is_floating_point()) for t in there))
    found = both_ways(leaves, grad.to("cuda:1"))
    assert torch.cuda.current_device() == 0
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.device.index == 1 and torch.equal(ours.cpu(), theirs.cpu())


def test_rows_beyond_two_to_the_31_elements():
    """With 40,000 rows of 65,536, the last ones are right."""
    if torch.cuda.mem_get_info()[0] < 12 * 2**30:
        pytest.skip("needs 12 GB")
    rows, width = 40_000, 1 << 16
    ops = torch.ops.mini_moe
    a = torch.randn(rows, 16, device=DEVICE, dtype=torch.bfloat16)
    b = torch.randn(2, 16, width, device=DEVICE, dtype=torch.bfloat16)
    offsets = torch.tensor([0, rows - 3, rows], device=DEVICE)
    out = ops.grouped_gemm(a, offsets, b, False)
    assert out.numel() > 2**31
    for row, expert in ((0, 0), (rows - 4, 0), (rows - 3, 1), (rows - 1, 1)):
        expected = a[row].double() @ b[expert].double()
        assert relative_error(out[row], expected) <= TOLERANCE[torch.bfloat16]
    place = torch.tensor([[rows - 1, 0], [1, rows - 2]], device=DEVICE)
    mixed = ops.combine(out, place, None)
    assert relative_error(mixed, out[place].float().sum(1)) <= TOLERANCE[torch.bfloat16]
