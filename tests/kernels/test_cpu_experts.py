"""Compiled experts against the token-by-token oracle, the definition and the PyTorch path."""

import pytest
import torch

from mini_moe.ops import moe_experts, reference, sorted_experts, use
from tests.helpers import TOLERANCE, relative_error
from tests.kernels.cpu import NAMES, instructions, needs_library, threads
from tests.ops.expert_cases import Case, dumb_forward, exact, random_case, with_ids

pytestmark = needs_library
DTYPES = [torch.float32, torch.bfloat16]
LOADS = [0, 1, 63, 64, 65, 127, 129]  # tokens per expert: none, one, and around tile sizes


@pytest.fixture(params=NAMES)
def instruction_set(request):
    """Run with each instruction set that this machine has."""
    with instructions(request.param):
        yield request.param


def loaded_case(loads: list[int], top_k: int = 1, dtype=torch.float32, d_model=40, d_expert=24):
    """Choose expert e loads[e] times, with tokens in mixed order."""
    experts = torch.arange(len(loads)).repeat_interleave(torch.tensor(loads))
    draw = torch.Generator().manual_seed(1)
    experts = experts[torch.randperm(len(experts), generator=draw)]
    tokens = len(experts) // top_k
    ids = experts[: tokens * top_k].view(tokens, top_k)
    return with_ids(random_case(tokens, 1, len(loads), d_model, d_expert, dtype), ids)._replace(
        gates=torch.rand(tokens, top_k, generator=draw).to(dtype).requires_grad_()
    )


def run(case: Case, grad: torch.Tensor) -> list[torch.Tensor]:
    """Return the output and the four gradients, straight from the library."""
    plain = [tensor.detach() for tensor in case]
    output, saved = torch.ops.mini_moe.experts_forward(*plain, True)
    return [output, *torch.ops.mini_moe.experts_backward(grad, *plain, saved)]


def random_grad(case: Case) -> torch.Tensor:
    draw = torch.Generator().manual_seed(2)
    return torch.randn(case.x.shape, generator=draw).to(case.x.dtype)


def assert_exact(case: Case) -> None:
    grad = random_grad(case)
    limit = TOLERANCE[case.x.dtype]
    for ours, theirs in zip(run(case, grad), exact(case, grad), strict=True):
        assert ours.shape == theirs.shape
        assert relative_error(ours, theirs) <= limit


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("top_k", [1, 3])
def test_every_load_of_an_expert_gives_exact_results(instruction_set, dtype, top_k):
    assert_exact(loaded_case(LOADS, top_k, dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("widths", [(1, 1), (16, 16), (17, 31), (33, 65), (129, 7), (300, 150)])
def test_widths_need_not_fit_the_vectors(instruction_set, dtype, widths):
    assert_exact(loaded_case([30, 0, 13], 1, dtype, *widths))
    assert_exact(loaded_case([2, 1, 0], 1, dtype, *widths))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_one_expert_may_take_more_rows_than_one_pass_over_them(instruction_set, dtype):
    assert_exact(loaded_case([1700, 0, 3], 1, dtype, 20, 18))


@pytest.mark.parametrize("load", LOADS)
def test_three_oracles_agree(load):
    case = Case(*(tensor.detach() for tensor in loaded_case([load, 5])))
    output = moe_experts(*case)
    path = sorted_experts.forward(*case)[0]
    for expected in (dumb_forward(case), reference.moe_experts(*case), path):
        assert relative_error(output, expected) <= TOLERANCE[torch.float32]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("loads", [LOADS, [1000, 1, 0, 2], [3, 2, 0, 4]], ids=str)
def test_number_of_threads_changes_no_bit(loads, dtype):
    case = loaded_case(loads, 1, dtype, 64, 96)
    grad = random_grad(case)
    with threads(1):
        expected = run(case, grad)
    for number in (1, 2, 3, 5):
        with threads(number):
            for one, two in zip(run(case, grad), expected, strict=True):
                assert torch.equal(one, two)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_leftovers_of_earlier_calls_reach_nothing(instruction_set, dtype):
    case = loaded_case(LOADS, 1, dtype)
    grad = random_grad(case)
    expected = run(case, grad)
    poison = case._replace(x=torch.full_like(case.x, torch.nan))
    for _ in range(2):  # results of the first call are freed into the allocator
        assert run(poison, torch.full_like(grad, torch.nan))[0].isnan().all()
        for one, two in zip(run(case, grad), expected, strict=True):
            assert torch.equal(one, two)
    _, _, _, gate_up, down = run(case, grad)
    assert not gate_up[0].any() and not down[0].any(), "an idle expert has zero gradients"


def test_nan_of_one_token_stays_with_it_and_its_expert():
    case = loaded_case([20, 20, 20])
    x = case.x.detach().clone()
    x[7, 3] = torch.nan
    output, _, grad_gates, gate_up, _ = run(case._replace(x=x), random_grad(case))
    others = torch.arange(len(x)) != 7
    assert output[7].isnan().all() and output[others].isfinite().all()
    assert grad_gates[others].isfinite().all()
    expert = case.expert_ids[7, 0]
    assert gate_up[torch.arange(3) != expert].isfinite().all()


@pytest.mark.parametrize("tokens", [3, 50])
def test_strides_of_the_gradient_do_not_matter(tokens):
    case = random_case(tokens, 2, 4)
    one = torch.randn(12)
    expanded = one.expand(tokens, 12)
    strided = torch.stack((expanded, expanded), dim=-1)[..., 1]
    expected = run(case, expanded.contiguous())
    for grad in (expanded, strided):
        for ours, theirs in zip(run(case, grad), expected, strict=True):
            assert torch.equal(ours, theirs)


def test_nothing_is_kept_when_no_gradient_is_wanted():
    case = random_case(30, 2, 4)
    plain = [tensor.detach() for tensor in case]
    output, saved = torch.ops.mini_moe.experts_forward(*plain, False)
    kept_output, kept = torch.ops.mini_moe.experts_forward(*plain, True)
    assert saved.shape == (0, 20) and kept.shape == (60, 20)
    assert torch.equal(output, kept_output)


def test_switching_between_forward_and_backward_is_noticed():
    case = random_case(400, 2, 5)
    expected = run(case, grad := torch.ones_like(case.x))
    output = moe_experts(*case)
    with use("pytorch"):
        found = torch.autograd.grad(output, case.leaves, grad)
    for ours, theirs in zip(found, expected[1:], strict=True):
        assert relative_error(ours, theirs) <= TOLERANCE[torch.float32]


def test_gates_may_be_wider_than_the_products():
    case = random_case(50, 2, 4, dtype=torch.bfloat16)
    wide = case._replace(gates=case.gates.detach().float())
    output, grad_x, grad_gates, *_ = run(wide, random_grad(wide))
    assert output.dtype == grad_x.dtype == torch.bfloat16 and grad_gates.dtype == torch.float32
    assert_exact(wide)


def test_weights_beyond_two_to_the_31_elements_are_reached():
    experts, d_model, d_expert = 35_000, 256, 128  # 4.6 GB reserved, three pages of it touched
    try:
        gate_up = torch.empty(experts, 2, d_expert, d_model, dtype=torch.bfloat16)
        down = torch.empty(experts, d_model, d_expert, dtype=torch.bfloat16)
    except RuntimeError as error:
        pytest.skip(f"no address space: {error}")
    assert gate_up.numel() > 2**31
    small = random_case(1, 1, 1, d_model, d_expert, torch.bfloat16)
    with torch.no_grad():
        gate_up[-1], down[-1] = small.gate_up_proj[0], small.down_proj[0]
        ids = torch.tensor([[experts - 1]])
        far = moe_experts(small.x, ids, small.gates, gate_up, down)
        assert torch.equal(far, moe_experts(*small))
