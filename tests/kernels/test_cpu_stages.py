"""The compiled stages one by one: against plain PyTorch, and the rules of custom operations."""

import pytest
import torch
import torch.nn.functional as F
from torch.library import opcheck

from mini_moe.ops import sort_rows, stages
from tests.helpers import TOLERANCE, relative_error, without_shape_hook
from tests.kernels.cpu import needs_library

pytestmark = needs_library
DTYPES = [torch.float32, torch.bfloat16]
LOADS = [0, 1, 63, 64, 65, 127, 129, 0]
OFFSETS = torch.tensor([0, *LOADS]).cumsum(0)
ROWS = sum(LOADS)
OPS = torch.ops.mini_moe


def normal(*shape: int, dtype=torch.float32, seed: int = 0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return (torch.randn(*shape, generator=draw) / shape[-1] ** 0.5).to(dtype)


def assert_same(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert relative_error(ours, theirs) <= TOLERANCE[ours.dtype]


def by_expert(a: torch.Tensor) -> list[torch.Tensor]:
    return list(a.split(LOADS))


@pytest.mark.parametrize("shape", [(0, 2, 3), (1, 1, 1), (50, 3, 7), (200, 8, 5)], ids=str)
def test_sorting_equals_the_packages_own(shape):
    tokens, top_k, experts = shape
    ids = torch.randint(experts, (tokens, top_k))
    for ours, theirs in zip(OPS.sort_rows(ids, experts), sort_rows(ids, experts), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_fused_gate_and_up_are_two_products_and_an_activation(dtype):
    x, weights = normal(200, 40, dtype=dtype), normal(len(LOADS), 2, 24, 40, dtype=dtype, seed=1)
    token = torch.randint(200, (ROWS,))
    hidden, _ = OPS.grouped_swiglu(x, token, OFFSETS, weights, True)
    parts = []
    for rows, (gate, up) in zip(by_expert(x[token]), weights, strict=True):
        parts.append(F.silu((rows @ gate.T).float()) * (rows @ up.T).float())
    assert_same(hidden, torch.cat(parts))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("transposed", [True, False])
def test_grouped_product_is_one_product_per_expert(dtype, transposed):
    a, b = normal(ROWS, 40, dtype=dtype), normal(len(LOADS), 40, 24, dtype=dtype, seed=1)
    b = b.transpose(1, 2).contiguous() if transposed else b
    matrices = b.transpose(1, 2) if transposed else b
    expected = torch.cat([r @ m for r, m in zip(by_expert(a), matrices, strict=True)])
    assert_same(OPS.grouped_gemm(a, OFFSETS, b, transposed), expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_weight_gradient_sums_over_an_experts_rows(dtype):
    a, b = normal(ROWS, 20, dtype=dtype), normal(ROWS, 30, dtype=dtype, seed=1)
    pairs = zip(by_expert(a), by_expert(b), strict=True)
    expected = torch.stack([one.T @ two for one, two in pairs])
    found = OPS.grouped_wgrad(a, b, OFFSETS)
    assert not found[0].any() and not found[-1].any()
    assert_same(found, expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("top_k", range(1, 9))
def test_combine_is_a_weighted_sum_of_gathered_rows(dtype, top_k):
    rows, gates = normal(60, 50, dtype=dtype), torch.rand(30, top_k)
    place = torch.randint(60, (30, top_k))
    expected = (rows[place].float() * gates[..., None]).sum(1)
    assert_same(OPS.combine(rows, place, gates), expected)
    plain = OPS.combine(rows, place, None)
    assert relative_error(plain, rows[place].float().sum(1)) <= TOLERANCE[dtype]


def calls() -> dict[str, tuple]:
    token = torch.randint(9, (ROWS,))
    return {
        "topk_gate": (
            normal(6, 8).requires_grad_(),
            torch.zeros(8),
            2,
            4,
            2,
            True,
            False,
            True,
            2.5,
        ),
        "sort_rows": (torch.randint(4, (7, 2)), 4),
        "grouped_swiglu": (normal(9, 12), token, OFFSETS, normal(len(LOADS), 2, 10, 12), True),
        "grouped_gemm": (normal(ROWS, 12), OFFSETS, normal(len(LOADS), 10, 12), True),
        "grouped_wgrad": (normal(ROWS, 12), normal(ROWS, 10), OFFSETS),
        "combine": (normal(ROWS, 12), torch.randint(ROWS, (9, 2)), torch.rand(9, 2)),
    }


@pytest.mark.parametrize("name", stages.OPERATIONS)
def test_stages_keep_the_rules_of_custom_operations(name):
    with without_shape_hook():
        opcheck(getattr(OPS, name).default, calls()[name])


@pytest.mark.parametrize("name", stages.PRODUCTS)
def test_stages_refuse_a_backward_pass(name):
    """Torch alone would only warn and leave the gradients out."""
    arguments = calls()[name]
    arguments[0].requires_grad_()
    found = getattr(OPS, name)(*arguments)
    found = found[0] if isinstance(found, tuple) else found
    with pytest.raises(RuntimeError, match="can't be differentiated; moe_experts"):
        found.sum().backward()


@pytest.mark.parametrize(
    ("name", "position", "bad", "named"),
    [
        ("sort_rows", 0, torch.tensor([[0, 4]]), "expert_ids must lie in"),
        ("sort_rows", 0, torch.zeros(3, dtype=torch.long), "expert_ids: "),
        ("sort_rows", 1, 0, "n_experts: at least 1 expected, got 0"),
        ("grouped_swiglu", 1, torch.full((ROWS,), 9), "token must lie in"),
        ("grouped_swiglu", 2, OFFSETS[:-1], "offsets: "),
        ("grouped_swiglu", 2, OFFSETS + 1, "offsets: from 0 to"),
        ("grouped_gemm", 1, OFFSETS.flip(0), "offsets: "),
        ("grouped_gemm", 1, OFFSETS.int(), "offsets: int64 expected, got int32"),
        ("grouped_gemm", 0, torch.zeros(ROWS, 11), "a: "),
        ("grouped_gemm", 2, torch.zeros(len(LOADS), 10, 12).double(), "b: float32 expected"),
        ("grouped_wgrad", 1, torch.zeros(ROWS - 1, 10), "b: "),
        ("combine", 1, torch.full((9, 2), -1), "place must lie in"),
        ("combine", 2, torch.rand(9, 3), "gates: "),
    ],
)
def test_argument_of_a_step_that_does_not_fit_is_named(name, position, bad, named):
    arguments = list(calls()[name])
    arguments[position] = bad
    with torch.no_grad(), pytest.raises(RuntimeError, match=f"mini_moe: {named}"):
        getattr(OPS, name)(*arguments)
