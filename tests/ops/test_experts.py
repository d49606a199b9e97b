"""The registered operation agrees with the token-by-token oracle on every path."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.library import opcheck

from mini_moe.ops import compiled, moe_experts, reference, use
from mini_moe.ops.experts import check_shapes
from mini_moe.ops.sorted_experts import sorted_experts, sorted_experts_backward
from tests.helpers import TOLERANCE, relative_error, without_shape_hook
from tests.ops.expert_cases import Case, dumb_forward, random_case, with_ids

# (tokens, top_k, experts): one token, one expert, all experts, not powers of two, many rows
SHAPES = [(1, 1, 1), (1, 8, 8), (7, 1, 5), (9, 3, 7), (16, 5, 6), (33, 8, 13), (300, 2, 3)]


@pytest.fixture(params=["compiled", "pytorch", "definition"])
def form(request):
    """Run all three forms of the operation."""
    with use(request.param):
        yield request.param


def gradients(case: Case, output: torch.Tensor) -> list[torch.Tensor]:
    """Return the gradients of a loss that weights every output element differently."""
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    found = torch.autograd.grad((output * weights).sum(), case.leaves, materialize_grads=True)
    return list(found)


def assert_same(case: Case, dtype: torch.dtype = torch.float32) -> None:
    """Compare the output and all four gradients with the oracle in float64."""
    exact = case.copy(torch.float64)
    output, expected = moe_experts(*case), dumb_forward(exact)
    assert relative_error(output, expected) <= TOLERANCE[dtype]
    for ours, theirs in zip(gradients(case, output), gradients(exact, expected), strict=True):
        assert relative_error(ours, theirs) <= TOLERANCE[dtype]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_output_and_gradients_match_one_token_at_a_time(shape, dtype, form):
    assert_same(random_case(*shape, dtype=dtype), dtype)


@pytest.mark.parametrize("top_k", range(1, 9))
def test_any_number_of_choices_works(top_k, form):
    assert_same(random_case(11, top_k, 9))


def test_all_tokens_may_go_to_one_expert(form):
    case = with_ids(random_case(20, 1, 4), torch.full((20, 1), 2))
    assert_same(case)
    _, _, grad_gate_up, grad_down = gradients(case, moe_experts(*case))
    idle = [0, 1, 3]
    assert not grad_gate_up[idle].any() and not grad_down[idle].any()


def test_an_expert_named_twice_counts_twice(form):
    case = random_case(6, 2, 3)
    assert_same(with_ids(case, case.expert_ids[:, :1].repeat(1, 2)))


def test_no_tokens_give_an_empty_result_and_zero_gradients(form):
    case = random_case(0, 2, 4)
    output = moe_experts(*case)
    assert output.shape == (0, 12)
    for leaf, gradient in zip(case.leaves, gradients(case, output), strict=True):
        assert gradient.shape == leaf.shape and not gradient.any()


def test_memory_layout_of_inputs_and_gradient_does_not_matter(form):
    case = random_case(9, 3, 5)
    plain = moe_experts(*case)
    strided = Case(*(torch.stack((t, t), dim=-1)[..., 0] for t in case))
    assert not strided.x.is_contiguous()
    assert relative_error(moe_experts(*strided), plain) <= TOLERANCE[torch.float32]
    expanded = torch.autograd.grad(plain.sum(), case.leaves, retain_graph=True)
    written = torch.autograd.grad(plain, case.leaves, torch.ones_like(plain), retain_graph=True)
    transposed = torch.autograd.grad(plain, case.leaves, torch.ones(12, 9).T)
    for one, two, three in zip(expanded, written, transposed, strict=True):
        if form == "definition":  # torch's products may sum in a different order
            assert max(relative_error(one, two), relative_error(two, three)) < 1e-6
        else:
            assert torch.equal(one, two) and torch.equal(two, three)


def test_the_same_input_gives_the_same_bits(form):
    case = random_case(200, 4, 8, dtype=torch.bfloat16)
    first = moe_experts(*case)
    first_gradients = gradients(case, first)
    for _ in range(3):
        again = moe_experts(*case)
        assert torch.equal(again, first)
        for one, two in zip(gradients(case, again), first_gradients, strict=True):
            assert torch.equal(one, two)


@pytest.mark.parametrize("shape", [(5, 2, 3), (4, 1, 5), (40, 2, 1)], ids=str)
def test_gradients_match_finite_differences(shape, form):
    tokens, top_k, experts = shape
    case = random_case(tokens, min(top_k, experts), experts, 3, 2, dtype=torch.float64)

    def function(x, gates, gate_up_proj, down_proj):
        return moe_experts(x, case.expert_ids, gates, gate_up_proj, down_proj)

    assert torch.autograd.gradcheck(function, case.leaves)


OPERATIONS = {"sorted_experts": (sorted_experts, sorted_experts_backward)}
if not compiled.WHY_NOT:
    library = torch.ops.mini_moe
    OPERATIONS["compiled"] = library.experts_forward, library.experts_backward


@pytest.mark.parametrize(("forward", "backward"), OPERATIONS.values(), ids=OPERATIONS)
@pytest.mark.parametrize("shape", [(9, 3, 7), (64, 2, 2), (1, 1, 4)], ids=str)
def test_operation_follows_the_rules_of_custom_operations(forward, backward, shape):
    case = random_case(*shape)
    with torch.no_grad():
        mixed, saved = forward(*case, True)
    backward_inputs = (torch.randn_like(mixed), *(t.detach() for t in case), saved)
    with without_shape_hook():  # opcheck passes symbolic sizes
        opcheck(forward, (*case, True))
        opcheck(backward, backward_inputs)


def test_the_definition_runs_on_request():
    case = random_case(40, 2, 6)
    with use("definition"):
        assert torch.equal(moe_experts(*case), reference.moe_experts(*case))


def test_the_backward_pass_takes_the_form_of_its_forward_pass():
    case, found = random_case(40, 2, 6), {}
    for form in ("compiled", "pytorch", "definition"):
        with use(form):
            output = moe_experts(*case)
        found[form] = gradients(case, output)  # outside the block
    for form in ("pytorch", "definition"):
        for ours, theirs in zip(found["compiled"], found[form], strict=True):
            assert relative_error(ours, theirs) <= TOLERANCE[torch.float32]


@pytest.mark.parametrize("wanted", range(4))
def test_gradients_can_be_taken_for_any_single_input(wanted, form):
    case = random_case(8, 2, 4)
    everything = gradients(case, moe_experts(*case))[wanted]
    for index, leaf in enumerate(case.leaves):
        leaf.requires_grad_(index == wanted)
    output = moe_experts(*case)
    weights = torch.linspace(-1, 1, output.numel()).view_as(output)
    (alone,) = torch.autograd.grad((output * weights).sum(), [case.leaves[wanted]])
    assert torch.equal(alone, everything)


@pytest.mark.parametrize("asked", ["compiled", "pytorch"])
def test_second_derivatives_are_refused_not_wrong(asked):
    case = random_case(4, 2, 3)
    with use(asked):
        output = moe_experts(*case)
    (slope,) = torch.autograd.grad(output.square().sum(), case.x, create_graph=True)
    with pytest.raises(RuntimeError, match="experts"):
        torch.autograd.grad(slope.sum(), case.x)


def test_autocast_multiplies_in_its_dtype_but_keeps_the_dtypes_of_gradients(form):
    case = random_case(30, 2, 4)
    with torch.autocast("cpu", torch.bfloat16):
        output = moe_experts(*case)
    assert output.dtype == torch.bfloat16
    exact = case.copy(torch.float64)
    expected = dumb_forward(exact)
    assert relative_error(output, expected) <= TOLERANCE[torch.bfloat16]
    for ours, theirs in zip(gradients(case, output), gradients(exact, expected), strict=True):
        assert ours.dtype == torch.float32
        assert relative_error(ours, theirs) <= TOLERANCE[torch.bfloat16]


@pytest.mark.parametrize("expert", [-1, 4, 2**40])
def test_expert_out_of_range_is_named(expert):
    case = random_case(3, 2, 4)
    case.expert_ids[1, 1] = expert
    with pytest.raises(ValueError, match=r"expert_ids must lie in \[0, 4\)"):
        moe_experts(*case)


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("x", torch.zeros(3, 11)),
        ("x", torch.zeros(3)),
        ("expert_ids", torch.zeros(4, 2, dtype=torch.long)),
        ("expert_ids", torch.zeros(3, dtype=torch.long)),
        ("expert_ids", torch.zeros(3, 0, dtype=torch.long)),
        ("expert_ids", torch.zeros(3, 2)),
        ("expert_ids", torch.zeros(3, 2, dtype=torch.bool)),
        ("expert_ids", torch.tensor(3)),
        ("gates", torch.zeros(3, 1)),
        ("gate_up_proj", torch.tensor(3.0)),
        ("gate_up_proj", torch.zeros(4, 20, 12)),
        ("gate_up_proj", torch.zeros(4, 3, 10, 12)),
        ("down_proj", torch.zeros(4, 10, 12)),
        ("down_proj", torch.zeros(3, 12, 10)),
    ],
)
def test_argument_that_does_not_fit_is_named(name, bad):
    case = random_case(3, 2, 4)._replace(**{name: bad})
    with without_shape_hook(), pytest.raises(ValueError, match=name):
        check_shapes(*case)
    with without_shape_hook(), pytest.raises(ValueError, match="expected, got"):
        moe_experts(*case)
    with without_shape_hook(), torch.no_grad(), pytest.raises(ValueError, match="expected, got"):
        moe_experts(*case)


@pytest.mark.compile
def test_whole_operation_compiles_without_a_break():
    case = random_case(20, 2, 4)
    output = moe_experts(*case)
    compiled = torch.compile(moe_experts, fullgraph=True)(*case)
    assert relative_error(compiled, output) <= TOLERANCE[torch.float32]
    for one, two in zip(gradients(case, compiled), gradients(case, output), strict=True):
        assert relative_error(one, two) <= TOLERANCE[torch.float32]


def test_without_gradients_shapes_are_known_without_data():
    case = random_case(9, 3, 7)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad():
        mixed = moe_experts(*[mode.from_tensor(tensor.detach()) for tensor in case])
    assert mixed.shape == case[0].shape
