"""Each stage on a GPU against the same stage on the CPU, or in float64; and the rules."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch.library import opcheck

from mini_moe.model.router import route
from mini_moe.ops import sort_rows, stages
from tests.gpu.common import DEVICE, DTYPES, LOADS, needs_gpu, poison, zipf_ids
from tests.helpers import TOLERANCE, relative_error, without_shape_hook

pytestmark = needs_gpu
OPS = torch.ops.mini_moe
OFFSETS = torch.tensor([0, *LOADS]).cumsum(0)
ROWS, EXPERTS = int(OFFSETS[-1]), len(LOADS)


def normal(*shape, dtype=torch.float32, seed=0):
    """Return rows of length about 1, on the CPU."""
    draw = torch.Generator().manual_seed(seed)
    return (torch.randn(*shape, generator=draw) / shape[-1] ** 0.5).to(dtype)


def there(*arguments):
    """Move tensors to the GPU; leave numbers alone."""
    return [t.to(DEVICE, copy=True) if isinstance(t, torch.Tensor) else t for t in arguments]


def assert_same(operation, expected, *arguments):
    """Compare an operation on the GPU with `expected` in float64 on the CPU."""
    here = there(*arguments)
    poison()
    output = operation(*here)
    wanted = expected(
        *(
            t.double() if isinstance(t, torch.Tensor) and t.is_floating_point() else t
            for t in arguments
        )
    )
    assert output.shape == wanted.shape
    assert relative_error(output.cpu(), wanted) <= TOLERANCE[output.dtype]


def by_expert(rows):
    return [rows[begin:end] for begin, end in zip(OFFSETS[:-1], OFFSETS[1:], strict=True)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("transposed", [True, False])
@pytest.mark.parametrize("widths", [(64, 48), (40, 24), (33, 65)], ids=str)
def test_grouped_product_is_one_product_per_expert(dtype, transposed, widths):
    k, n = widths
    b = normal(EXPERTS, n, k, dtype=dtype, seed=1)
    b = b if transposed else b.transpose(1, 2).contiguous()

    def expected(a, _, b, transposed):
        matrices = b.transpose(1, 2) if transposed else b
        return torch.cat([r @ m for r, m in zip(by_expert(a), matrices, strict=True)])

    assert_same(OPS.grouped_gemm, expected, normal(ROWS, k, dtype=dtype), OFFSETS, b, transposed)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("widths", [(64, 48), (20, 30), (33, 65)], ids=str)
def test_weight_gradient_sums_over_an_experts_rows(dtype, widths):
    def expected(a, b, _):
        pairs = zip(by_expert(a), by_expert(b), strict=True)
        return torch.stack([one.T @ two for one, two in pairs])

    m, n = widths
    a, b = normal(ROWS, m, dtype=dtype), normal(ROWS, n, dtype=dtype, seed=1)
    assert_same(OPS.grouped_wgrad, expected, a, b, OFFSETS)
    found = OPS.grouped_wgrad(*there(a, b, OFFSETS))
    assert not found[0].any() and found.isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("widths", [(64, 48), (40, 24), (33, 65)], ids=str)
def test_fused_gate_and_up_are_two_products_and_an_activation(dtype, widths):
    def expected(x, token, _, weights, __):
        parts = []
        for rows, (gate, up) in zip(by_expert(x[token]), weights, strict=True):
            parts.append(F.silu(rows @ gate.T) * (rows @ up.T))
        return torch.cat(parts)

    d_model, d_expert = widths
    x = normal(200, d_model, dtype=dtype)
    weights = normal(EXPERTS, 2, d_expert, d_model, dtype=dtype, seed=1)
    token = torch.randint(200, (ROWS,))
    first = lambda *arguments: OPS.grouped_swiglu(*arguments)[0]  # noqa: E731
    assert_same(first, expected, x, token, OFFSETS, weights, True)
    hidden, saved = OPS.grouped_swiglu(*there(x, token, OFFSETS, weights), False)
    assert saved.shape == (0, 2 * d_expert) and hidden.isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("top_k", range(1, 9))
def test_combine_is_a_weighted_sum_of_gathered_rows(dtype, top_k):
    def expected(rows, place, gates):
        return (rows[place] * gates[..., None]).sum(1)

    rows, place = normal(60, 50, dtype=dtype), torch.randint(60, (30, top_k))
    assert_same(OPS.combine, expected, rows, place, torch.rand(30, top_k))
    plain = OPS.combine(*there(rows, place), None)
    assert relative_error(plain.cpu(), rows[place].double().sum(1)) <= TOLERANCE[dtype]


def test_combine_leaves_out_places_that_are_not_there():
    rows, gates = normal(60, 16), torch.rand(30, 3)
    place = torch.randint(60, (30, 3))
    broken, kept = place.clone(), torch.ones(30, 3)
    for at, bad in (((2, 1), -1), ((5, 0), 60), ((29, 2), 2**40)):
        broken[at], kept[at] = bad, 0
    output = OPS.combine(*there(rows, broken, gates))
    assert relative_error(output.cpu(), (rows[place] * (gates * kept)[..., None]).sum(1)) <= 2e-6


@pytest.mark.parametrize("experts", [1, 31, 33, 256, 1024])
@pytest.mark.parametrize("tokens", [0, 1, 255, 3000])
def test_sort_is_the_packages_sort(tokens, experts):
    top_k = min(experts, 4)
    ids = zipf_ids(tokens, top_k, experts) if tokens else torch.zeros(0, top_k, dtype=torch.long)
    poison()
    for ours, theirs in zip(
        OPS.sort_rows(ids.to(DEVICE), experts), sort_rows(ids, experts), strict=True
    ):
        assert torch.equal(ours.cpu(), theirs)


GATES = [  # experts, top_k, groups, top_k_groups, two_best, softmax, normalise
    (8, 2, 1, 1, False, False, True),
    (8, 2, 1, 1, False, True, False),
    (60, 6, 1, 1, False, True, True),
    (64, 6, 8, 3, False, True, False),
    (256, 8, 8, 4, True, False, True),
    (1000, 32, 1, 1, False, False, True),
]


def apart(rows, columns):
    """Return rows of -3 … 3 in different orders: no scores are so close that rounding decides."""
    return torch.stack(
        [torch.linspace(-3, 3, columns)[torch.randperm(columns)] for _ in range(rows)]
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("settings", GATES, ids=str)
def test_gate_chooses_and_weighs_as_the_definition(settings, biased, dtype):
    experts, *rest = settings
    logits = apart(50, experts).to(dtype)
    bias = 2.0 * torch.randperm(experts) if biased else None  # more than scores can differ
    here = logits.to(DEVICE, copy=True).requires_grad_()
    logits.requires_grad_()
    poison()
    bias_here = None if bias is None else bias.to(DEVICE)
    gates, ids, scores, choice_scores = OPS.topk_gate(here, bias_here, *rest, 2.5)
    top_k, groups, top_k_groups, two_best, softmax, normalise = rest
    config = SimpleNamespace(
        top_k=top_k,
        n_expert_groups=groups,
        top_k_groups=top_k_groups,
        group_score="top2_sum" if two_best else "max",
        score_function="softmax" if softmax else "sigmoid",
        norm_topk_prob=normalise,
        route_scale=2.5,
    )
    exact = route(logits.float(), bias, config)
    assert torch.equal(ids.cpu(), exact.expert_ids)
    assert relative_error(gates.cpu(), exact.gates) <= 2e-6
    assert relative_error(scores.cpu(), exact.scores) <= 2e-6
    assert torch.equal(choice_scores.isinf().cpu(), exact.choice_scores.isinf())
    to_gates, to_scores = normal(50, rest[0], seed=3), normal(50, experts, seed=4)
    for one, two in ((1, 0), (0, 1), (1, 1)):
        losses = [
            one * (g * to_gates.to(g.device)).sum() + two * (s * to_scores.to(s.device)).sum()
            for g, s in ((gates, scores), (exact.gates, exact.scores))
        ]
        (ours,) = torch.autograd.grad(losses[0], [here], retain_graph=True)
        (theirs,) = torch.autograd.grad(losses[1], [logits], retain_graph=True)
        assert ours.dtype == dtype
        assert relative_error(ours.cpu(), theirs) <= max(TOLERANCE[dtype], 1e-5)


def test_gate_breaks_ties_by_the_lower_id_and_survives_nan():
    logits = torch.randint(-2, 3, (100, 64)).float() / 2
    ids = OPS.topk_gate(logits.to(DEVICE), None, 8, 1, 1, False, False, True, 1.0)[1].cpu()
    assert torch.equal(ids, logits.sort(dim=-1, descending=True, stable=True).indices[:, :8])
    logits[::2] = torch.nan
    logits[1::4, 3] = torch.nan
    for softmax in (False, True):
        ids = OPS.topk_gate(logits.to(DEVICE), None, 8, 1, 1, False, softmax, True, 1.0)[1]
        assert ((ids >= 0) & (ids < 64)).all()
        assert (ids.sort(dim=-1).values.diff(dim=-1) > 0).all(), "no expert twice"


def test_gate_is_not_differentiated_twice():
    logits = torch.randn(5, 8, device=DEVICE, requires_grad=True)
    gates = OPS.topk_gate(logits, None, 2, 1, 1, False, False, True, 1.0)[0]
    (slope,) = torch.autograd.grad(gates.square().sum(), logits, create_graph=True)
    with pytest.raises(RuntimeError, match="can't be differentiated twice on CUDA"):
        torch.autograd.grad(slope.sum(), logits)


def calls() -> dict[str, tuple]:
    token = torch.randint(9, (ROWS,))
    logits = normal(6, 8).to(DEVICE).requires_grad_()
    return {
        "topk_gate": (logits, *there(torch.zeros(8), 2, 4, 2, True, False, True, 2.5)),
        "sort_rows": there(torch.randint(4, (7, 2)), 4),
        "grouped_swiglu": there(normal(9, 16), token, OFFSETS, normal(EXPERTS, 2, 8, 16), True),
        "grouped_gemm": there(normal(ROWS, 16), OFFSETS, normal(EXPERTS, 8, 16), True),
        "grouped_wgrad": there(normal(ROWS, 16), normal(ROWS, 8), OFFSETS),
        "combine": there(normal(ROWS, 16), torch.randint(ROWS, (9, 2)), torch.rand(9, 2)),
    }


@pytest.mark.parametrize("name", stages.OPERATIONS)
def test_stages_keep_the_rules_of_custom_operations(name):
    with without_shape_hook():
        opcheck(getattr(OPS, name).default, tuple(calls()[name]))


@pytest.mark.parametrize("name", stages.PRODUCTS)
def test_stages_refuse_a_backward_pass(name):
    """Torch alone would only warn and leave the gradients out."""
    arguments = calls()[name]
    arguments[0].requires_grad_()
    found = results(name, arguments)[0]
    with pytest.raises(RuntimeError, match="can't be differentiated; moe_experts"):
        found.sum().backward()


def results(name, arguments) -> tuple:
    found = getattr(OPS, name)(*arguments)
    return found if isinstance(found, tuple) else (found,)


@pytest.mark.parametrize("name", stages.OPERATIONS)
def test_stages_give_the_same_bits_every_time(name):
    arguments = calls()[name]
    first = results(name, arguments)
    for _ in range(3):
        poison()
        for one, two in zip(first, results(name, arguments), strict=True):
            assert torch.equal(one, two)


def test_gradient_of_the_gate_has_the_same_bits_every_time():
    arguments = calls()["topk_gate"]
    slopes = []
    for _ in range(3):
        poison()
        loss = results("topk_gate", arguments)[0].square().sum()
        slopes += torch.autograd.grad(loss, arguments[0])
    assert all(torch.equal(slopes[0], slope) for slope in slopes)
