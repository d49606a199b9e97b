"""The layer on a GPU against the definition in float64, over edge cases of its shapes."""

import pytest
import torch

from mini_moe.ops import compiled, describe, moe_experts, use
from tests.gpu.common import (
    DEVICE,
    DTYPES,
    LOADS,
    assert_exact,
    assert_same_bits,
    exact,
    loaded_case,
    needs_gpu,
    no_rehearsal,
    on_gpu,
    random_grad,
    run,
    zipf_ids,
)
from tests.helpers import TOLERANCE, relative_error
from tests.ops.expert_cases import Case, random_case, with_ids

pytestmark = needs_gpu
SHAPES = [(1, 1, 1), (1, 8, 8), (7, 1, 5), (9, 3, 7), (33, 8, 13), (300, 2, 3), (500, 4, 64)]


@no_rehearsal
def test_compiled_kernels_are_what_runs():
    case = on_gpu(random_case(9, 3, 7))
    assert compiled.serves_experts(case.x, case.gates, 7)
    assert "experts_forward" in type(moe_experts(*case).grad_fn).__name__
    assert "on CUDA: compiled kernels (sm_80, sm_90a)" in describe()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_output_and_gradients_are_the_definitions(shape, dtype):
    assert_exact(random_case(*shape, 64, 48, dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("top_k", [1, 3])
def test_every_load_of_an_expert(dtype, top_k):
    assert_exact(loaded_case(LOADS, top_k, dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("top_k", range(1, 9))
def test_any_number_of_choices(top_k, dtype):
    assert_exact(random_case(40, top_k, 9, 64, 32, dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "widths", [(1, 1), (8, 8), (12, 10), (16, 136), (63, 65), (256, 192), (520, 24)], ids=str
)
def test_widths_need_not_fit_the_tiles(widths, dtype):
    assert_exact(loaded_case([30, 0, 70], 1, dtype, *widths))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_skewed_routing_with_idle_experts(dtype):
    case = with_ids(random_case(400, 4, 64, 64, 32, dtype), zipf_ids(400, 4, 64))
    _, _, _, gate_up, down = assert_exact(case)
    idle = torch.bincount(case.expert_ids.flatten(), minlength=64) == 0
    assert idle.any() and not gate_up[idle.to(DEVICE)].any() and not down[idle.to(DEVICE)].any()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_all_tokens_may_go_to_one_expert(dtype):
    assert_exact(loaded_case([0, 0, 700, 0], 1, dtype))


def test_no_tokens_give_an_empty_result_and_zero_gradients():
    output, grad_x, grad_gates, gate_up, down = run(random_case(0, 2, 4), torch.zeros(0, 12))
    assert output.shape == grad_x.shape == (0, 12) and grad_gates.shape == (0, 2)
    assert not gate_up.any() and not down.any()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_same_input_gives_the_same_bits(dtype):
    case = with_ids(random_case(700, 4, 16, 128, 64, dtype), zipf_ids(700, 4, 16))
    grad = random_grad(case)
    first = run(case, grad)
    for _ in range(5):
        assert_same_bits(run(case, grad), first)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_memory_layout_of_inputs_and_gradient_does_not_matter(dtype):
    case = random_case(40, 3, 5, 64, 32, dtype)
    row = torch.randn(64, device=DEVICE, dtype=dtype)
    expected = run(case, row.expand(40, 64).contiguous())
    for grad in (row.expand(40, 64), row.repeat(40, 1).T.contiguous().T):
        assert_same_bits(run(case, grad), expected)
    strided = Case(*(torch.stack((t, t), dim=-1)[..., 0] for t in on_gpu(case)))
    assert not strided.x.is_contiguous()
    assert torch.equal(moe_experts(*strided), expected[0])


def test_sum_expands_its_gradient():
    case = on_gpu(random_case(40, 3, 5, 64, 32))
    output = moe_experts(*case)
    expanded = torch.autograd.grad(output.sum(), case.leaves, retain_graph=True)
    written = torch.autograd.grad(output, case.leaves, torch.ones_like(output))
    for one, two in zip(expanded, written, strict=True):
        assert torch.equal(one, two)


def test_misaligned_rows_give_the_same_numbers():
    """An address that is not a multiple of 16 bytes uses the plain kernels."""
    case = on_gpu(random_case(70, 2, 4, 64, 32, torch.bfloat16))
    storage = torch.empty(70 * 64 + 1, dtype=torch.bfloat16, device=DEVICE)
    shifted = storage[1:].view(70, 64).copy_(case.x.detach())
    assert shifted.data_ptr() % 16 and shifted.is_contiguous()
    far = moe_experts(case._replace(x=shifted).x, *case[1:])
    assert relative_error(far, moe_experts(*case)) <= TOLERANCE[torch.bfloat16]


@pytest.mark.parametrize("gates", [torch.float32, torch.bfloat16], ids=str)
def test_gates_may_have_another_type_than_the_products(gates):
    case = random_case(50, 2, 4, 64, 32, torch.bfloat16)
    case = case._replace(gates=case.gates.detach().to(gates).requires_grad_())
    assert assert_exact(case)[2].dtype == gates


def test_nan_of_one_token_stays_with_it_and_its_expert():
    case = loaded_case([70, 70, 70], 1, torch.bfloat16)
    x = case.x.detach().clone()
    x[7, 3] = torch.nan
    output, grad_x, grad_gates, gate_up, down = run(case._replace(x=x), random_grad(case))
    others = (torch.arange(len(x)) != 7).to(DEVICE)
    assert output[7].isnan().all()
    for tensor in (output, grad_x, grad_gates):
        assert tensor[others].isfinite().all()
    elsewhere = (torch.arange(3) != case.expert_ids[7, 0]).to(DEVICE)
    assert gate_up[elsewhere].isfinite().all() and down[elsewhere].isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_choice_of_an_expert_that_does_not_exist_counts_nothing(dtype):
    """Checking ids would make the CPU wait, so the kernels skip such a choice instead."""
    case = random_case(80, 3, 6, 64, 32, dtype)
    broken, kept = case.expert_ids.clone(), torch.ones(80, 3, dtype=torch.bool)
    for at, bad in [((3, 1), -1), ((5, 0), 6), ((5, 1), 2**40), ((5, 2), -(2**40)), ((79, 2), 7)]:
        broken[at], kept[at] = bad, False
    grad = random_grad(case)
    found = run(with_ids(case, broken), grad)
    silent = case._replace(gates=(case.gates.detach() * kept).requires_grad_())
    expected = exact(silent, grad)
    expected[2] = expected[2] * kept
    for ours, theirs in zip(found, expected, strict=True):
        assert relative_error(ours.cpu(), theirs) <= TOLERANCE[dtype]
    assert not found[0][5].any() and not found[1][5].any()


def test_types_that_the_kernels_lack_go_to_pytorch():
    case = random_case(30, 2, 4, dtype=torch.float64)
    assert not compiled.serves_experts(on_gpu(case).x, case.gates, 4)
    assert_exact(case)


@no_rehearsal
def test_more_experts_than_the_kernels_count_go_to_pytorch():
    assert_exact(random_case(30, 2, 1025, 16, 8))


def test_pytorch_path_agrees():
    case = random_case(200, 2, 5, 64, 32)
    grad = random_grad(case)
    expected = exact(case, grad)
    with use("pytorch"):
        found = run(case, grad)
    for ours, theirs in zip(found, expected, strict=True):
        assert relative_error(ours.cpu(), theirs) <= TOLERANCE[torch.float32]


def test_ids_may_be_32_bits_wide():
    case = on_gpu(random_case(30, 2, 4))
    assert torch.equal(moe_experts(*with_ids(case, case.expert_ids.int())), moe_experts(*case))


def test_autocast_multiplies_in_its_type_and_returns_gradients_in_theirs():
    case = random_case(60, 2, 4, 64, 32)
    here = on_gpu(case)
    with torch.autocast(DEVICE, torch.bfloat16):
        output = moe_experts(*here)
    assert output.dtype == torch.bfloat16
    grad = random_grad(case)
    gradients = torch.autograd.grad(output, here.leaves, grad.to(DEVICE).bfloat16())
    for ours, theirs in zip([output, *gradients], exact(case, grad), strict=True):
        assert relative_error(ours.cpu(), theirs) <= TOLERANCE[torch.bfloat16]
    assert all(gradient.dtype == torch.float32 for gradient in gradients)


def test_second_derivatives_are_refused_not_wrong():
    case = on_gpu(random_case(4, 2, 3))
    (slope,) = torch.autograd.grad(moe_experts(*case).square().sum(), case.x, create_graph=True)
    with pytest.raises(RuntimeError, match="experts_forward"):
        torch.autograd.grad(slope.sum(), case.x)
