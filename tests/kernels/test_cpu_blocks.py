"""A block's operations besides its experts: attention, norms, activation, loss."""

import pytest
import torch
from torch.library import opcheck

from mini_moe import ops
from mini_moe.ops import use
from tests.helpers import TOLERANCE, relative_error, without_shape_hook
from tests.kernels.cpu import NAMES, instructions, needs_library, threads

pytestmark = needs_library
DTYPES = [torch.float32, torch.bfloat16]
# batch, queries, keys, heads, nope, rope, value
ATTENTION = [
    (2, 7, 7, 3, 6, 2, 4), (2, 1, 9, 2, 32, 16, 32), (1, 130, 130, 2, 32, 16, 32),
    (2, 29, 300, 3, 8, 4, 8), (1, 300, 600, 1, 5, 3, 7), (1, 40, 41, 2, 0, 4, 33),
]  # fmt: skip
ROTATE = [(2, 5, 3, 10, 4), (1, 1, 1, 16, 8), (3, 7, 2, 70, 35)]  # batch, seq, heads, width, pairs
LINEAR = [(32, 1, 1), (45, 70, 33), (130, 64, 80), (900, 40, 100), (33, 300, 16)]
WIDTHS = [(1, 2), (5, 17), (130, 64), (3, 256), (70, 33)]  # rows, width


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def attention_case(batch, queries, keys, heads, nope, rope, value):
    query, kv = normal(batch, queries, heads, nope + rope), normal(batch, keys, heads, nope + value)
    return lambda q, kv, r: ops.latent_attention(q, kv, r, 0.3), (
        query, kv, normal(batch, keys, rope),
    )  # fmt: skip


def rotate_case(batch, seq, heads, width, pairs):
    rotation = torch.randn(seq, pairs, 2)
    return lambda x: ops.rotate(x, rotation.to(torch.promote_types(x.dtype, rotation.dtype))), (
        normal(batch, seq, heads, width),
    )


def norm_case(rows, width):
    return lambda x, w: ops.normalise(x, w, 1e-6), (normal(rows, width), 1 + normal(width) / 9)


def linear_case(rows, d_in, d_out):
    return ops.linear, (normal(rows, d_in), normal(d_out, d_in) / d_in**0.5)


def loss_case(rows, width):
    targets = torch.randint(width, (rows,))
    return lambda x: ops.cross_entropy(x, targets), (3 * normal(rows, width),)


def swiglu_case(rows, width):
    return ops.swiglu_product, (3 * normal(rows, width), normal(rows, width))


CASES = [
    *[pytest.param(attention_case, shape, id=f"attention {shape}") for shape in ATTENTION],
    *[pytest.param(rotate_case, shape, id=f"rotate {shape}") for shape in ROTATE],
    *[pytest.param(linear_case, shape, id=f"linear {shape}") for shape in LINEAR],
    *[pytest.param(norm_case, shape, id=f"norm {shape}") for shape in WIDTHS],
    *[pytest.param(loss_case, shape, id=f"loss {shape}") for shape in WIDTHS],
    *[pytest.param(swiglu_case, shape, id=f"swiglu {shape}") for shape in WIDTHS],
]
ONE_OF_EACH = [
    pytest.param(make, shape, id=make.__name__)
    for make, shape in [
        (attention_case, ATTENTION[4]), (rotate_case, ROTATE[2]), (norm_case, (300, 40)),
        (loss_case, (130, 200)), (swiglu_case, (300, 41)),
        (linear_case, (130, 64, 90)),
    ]
]  # fmt: skip


def evaluate(function, leaves):
    """Return the output, and gradients of a loss that weights every element differently."""
    leaves = [leaf.detach().requires_grad_() for leaf in leaves]
    output = function(*leaves)
    weights = torch.linspace(0.5, -1, output.numel()).view(output.shape)
    return output, *torch.autograd.grad((output * weights).sum(), leaves)


@pytest.mark.parametrize(("make", "shape"), CASES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_kernel_equals_the_definition_in_double(make, shape, dtype):
    function, leaves = make(*shape)
    leaves = [leaf.to(dtype) for leaf in leaves]
    wide = evaluate(function, [leaf.double() for leaf in leaves])
    for ours, expected in zip(evaluate(function, leaves), wide, strict=True):
        assert relative_error(ours, expected) <= 2 * TOLERANCE[dtype]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("make", "shape"), ONE_OF_EACH)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_instruction_set_computes_the_same(name, make, shape, dtype):
    function, leaves = make(*shape)
    leaves = [leaf.to(dtype) for leaf in leaves]
    with use("pytorch"):
        expected = evaluate(function, leaves)
    with instructions(name):
        for ours, theirs in zip(evaluate(function, leaves), expected, strict=True):
            assert ours.dtype == theirs.dtype or ours.dtype == torch.float32
            assert relative_error(ours, theirs) <= 2 * TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_weights_larger_than_a_thread_may_hold_are_packed_block_by_block(dtype):
    x, weight, grad = torch.randn(9, 8200), torch.randn(4500, 8200) / 90, torch.randn(9, 4500)
    leaves = [tensor.to(dtype).requires_grad_() for tensor in (x, weight)]
    found = ops.linear(*leaves)
    grad_x = torch.autograd.grad(found, leaves[0], grad.to(dtype))[0]
    assert relative_error(found, x @ weight.T) <= TOLERANCE[dtype]
    assert relative_error(grad_x, grad @ weight) <= TOLERANCE[dtype]


@pytest.mark.parametrize(("make", "shape"), ONE_OF_EACH)
def test_bits_are_the_same_with_any_number_of_threads(make, shape):
    function, leaves = make(*shape)
    leaves = [leaf.bfloat16() for leaf in leaves]
    results = []
    for number in (1, 2, 3, 7):
        with threads(number):
            results.append(evaluate(function, leaves))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize(("make", "shape"), ONE_OF_EACH[:1] + ONE_OF_EACH[2:])
def test_second_derivative_is_refused(make, shape):
    function, leaves = make(*shape)
    leaves = [leaf.float().requires_grad_() for leaf in leaves]
    loss = function(*leaves).square().sum()
    gradient = torch.autograd.grad(loss, leaves, create_graph=True)
    with pytest.raises(RuntimeError, match="can't be differentiated again"):
        torch.autograd.grad(gradient[0].sum(), leaves)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_operations_obey_the_rules_of_torch(dtype):
    def leaf(*shape):
        return torch.randn(*shape).to(dtype).requires_grad_()

    kernels = torch.ops.mini_moe
    heads = leaf(2, 5, 3, 12), leaf(2, 9, 3, 16), leaf(2, 9, 4)
    opcheck(kernels.latent_attention, (*heads, 0.3))
    opcheck(kernels.rotate, (leaf(2, 5, 3, 12), torch.randn(5, 4, 2), False))
    for wide in (leaf(7, 12), torch.randn(7, 12, requires_grad=True)):
        opcheck(kernels.linear, (leaf(5, 12), wide, dtype == torch.bfloat16))
    opcheck(kernels.rms_norm, (leaf(7, 12), leaf(12), 1e-6, dtype == torch.bfloat16))
    opcheck(kernels.swiglu_product, (leaf(7, 12), leaf(7, 12)))
    opcheck(kernels.cross_entropy, (leaf(7, 12), torch.randint(12, (7,))))


@pytest.mark.compile
@pytest.mark.parametrize(("make", "shape"), ONE_OF_EACH)
def test_kernel_compiles_without_a_break(make, shape):
    function, leaves = make(*shape)
    leaves = [leaf.float() for leaf in leaves]
    expected = evaluate(function, leaves)
    ours = evaluate(torch.compile(function, fullgraph=True), leaves)
    for one, two in zip(ours, expected, strict=True):
        assert relative_error(one, two) <= TOLERANCE[torch.float32]


def test_odd_shapes_are_left_to_torch():
    with without_shape_hook(), pytest.raises(RuntimeError, match="must match the size"):
        ops.normalise(torch.randn(3, 2, 4), torch.ones(5), 1e-6)
    assert ops.linear(torch.zeros(9, 0), torch.zeros(3, 0)).shape == (9, 3)


def test_norm_under_autocast_has_its_type_and_rounds_once():
    x, weight = torch.randn(9, 40), torch.rand(40)
    with torch.autocast("cpu", torch.bfloat16):
        ours = ops.normalise(x, weight, 1e-6)
    assert ours.dtype == torch.bfloat16
    assert torch.equal(ours, ops.normalise(x, weight, 1e-6).bfloat16())


@pytest.mark.parametrize("rows", [40, 900])
def test_product_under_autocast_rounds_as_torch_does(rows):
    x, weight = torch.randn(rows, 70), torch.randn(50, 70, requires_grad=True)
    results = []
    for product in (ops.linear, torch.nn.functional.linear):
        given = x.bfloat16().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            out = product(given, weight)
        grads = torch.autograd.grad(out, (given, weight), torch.ones_like(out))
        results.append((out, *grads))
    for ours, theirs in zip(*results, strict=True):
        assert ours.dtype == theirs.dtype
        assert relative_error(ours, theirs) <= TOLERANCE[torch.bfloat16]


def test_product_in_float32_of_bfloat16_rows_keeps_every_digit_of_the_weight():
    x, weight = torch.randn(64, 30).bfloat16().requires_grad_(), torch.randn(16, 30)
    out = ops.linear(x, weight, torch.float32)
    (grad,) = torch.autograd.grad(out.sum(), x)
    assert out.dtype == torch.float32 and grad.dtype == torch.bfloat16
    assert relative_error(out, x.double() @ weight.double().T) <= TOLERANCE[torch.float32]
    assert torch.equal(grad, weight.sum(0).bfloat16().expand_as(grad))


@pytest.mark.parametrize("rows", [3, 64])
def test_product_of_two_types_is_refused_as_torch_refuses_it(rows):
    with pytest.raises(RuntimeError, match="dtype"):
        ops.linear(torch.zeros(rows, 4).bfloat16(), torch.zeros(5, 4))


def test_no_rows_leave_a_gradient_of_zeros():
    grads = torch.ops.mini_moe.linear_backward(
        torch.zeros(0, 3), torch.zeros(0, 5), torch.ones(3, 5)
    )
    assert grads[0].shape == (0, 5) and not grads[1].any()


def test_infinite_logits_give_the_losses_that_torch_gives():
    logits = torch.randn(5, 20)
    logits[0, 3] = torch.inf
    logits[1, 4] = -torch.inf
    logits[2, 5] = torch.nan
    logits[3] = 1e30
    for target in (3, 4, 7):
        for row in logits:
            targets = torch.tensor([target])
            ours, theirs = (
                ops.cross_entropy(row[None], targets),
                torch.nn.functional.cross_entropy(row[None], targets),
            )
            assert torch.allclose(ours, theirs, equal_nan=True), (row, target)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: ops.cross_entropy(torch.zeros(2, 5), torch.tensor([0, 5])), r"targets.*\[0, 5\)"),
        (lambda: ops.cross_entropy(torch.zeros(2, 5), torch.tensor([0])), "targets: "),
        (lambda: product_bad(x=(40, 5), weight=(7, 6)), r"x: \[any, 6\] expected, got \[40, 5\]"),
        (lambda: attention_bad(queries=4, keys=3), "query: at most as many as the 3 keys"),
        (lambda: attention_bad(rope=13), "key_rope: at most the 12"),
        (lambda: attention_bad(kv=8), "kv: more than 8 channels"),
        (lambda: attention_bad(batch=1), "kv: "),
    ],
)
def test_argument_that_does_not_fit_is_named(call, named):
    with without_shape_hook(), pytest.raises(ValueError, match=named):
        call()


def product_bad(x, weight):
    ops.linear(torch.zeros(x), torch.zeros(weight))


def attention_bad(queries=3, keys=3, rope=4, kv=16, batch=2):
    heads = torch.zeros(2, queries, 3, 12), torch.zeros(batch, keys, 3, kv)
    ops.latent_attention(*heads, torch.zeros(batch, keys, rope), 1.0)
