"""The parts of a layer compute what the model's modules compute, for few tokens and for many."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from mini_moe.inference.engine.layers import MixtureStep, Product, SwiGLUStep, norm_of
from mini_moe.ops import use
from mini_moe.ops.product import THIN
from tests.helpers import TOLERANCE, relative_error, small_model
from tests.kernels.cpu import needs_library, threads

ROWS = [1, THIN - 1, THIN, 40]


@pytest.fixture(params=["compiled", "plain"])
def way(request):
    """Run a test with the compiled kernels and without."""
    if request.param == "compiled":
        yield
    else:
        with use("pytorch"):
            yield


@torch.no_grad()
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize(("n_in", "n_out"), [(32, 48), (7, 5), (1, 1)])
def test_products_match_torch(way, rows, n_in, n_out):
    x, weight = torch.randn(rows, n_in), torch.randn(n_out, n_in)
    assert relative_error(Product(weight)(x), F.linear(x, weight)) < TOLERANCE[torch.float32]


@torch.no_grad()
def test_other_dtypes_use_torchs_product():
    x, weight = torch.randn(20, 8).double(), torch.randn(6, 8).double()
    assert torch.equal(Product(weight)(x), F.linear(x, weight))


@torch.no_grad()
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("wide", [True, False])
@needs_library
def test_bfloat16_products_are_rounded_once_or_not_at_all(rows, wide):
    x, weight = torch.randn(rows, 48), torch.randn(70, 48).bfloat16()
    x = x.bfloat16().float()
    found, expected = Product(weight, wide)(x), F.linear(x.double(), weight.double())
    assert found.dtype == (torch.float32 if wide else torch.bfloat16)
    assert relative_error(found, expected) < (1e-6 if wide else 2**-8)


@torch.no_grad()
@pytest.mark.parametrize("rows", [THIN, 100])
@needs_library
def test_products_of_many_rows_keep_their_bits_on_any_number_of_threads(rows):
    for dtype, width in itertools.product((torch.float32, torch.bfloat16), (33, 64, 300)):
        x, product = torch.randn(rows, 40).to(dtype), Product(torch.randn(width, 40).to(dtype))
        results = []
        for number in (1, 2, 3, 8):
            with threads(number):
                results.append(product(x))
        assert all(torch.equal(found, results[0]) for found in results)


@torch.no_grad()
@pytest.mark.parametrize("rows", ROWS)
def test_parts_are_the_modules_plus_the_residual(way, rows):
    model = small_model()
    x, normed = torch.randn(2, rows, 32)
    for step, module in (
        (MixtureStep(model.layers[1].mlp), model.layers[1].mlp),
        (SwiGLUStep(model.layers[0].mlp), model.layers[0].mlp),
    ):
        expected = x + module(normed[None])[0]
        assert relative_error(step(x, normed), expected) < 4 * TOLERANCE[torch.float32]


@torch.no_grad()
@pytest.mark.parametrize("rows", ROWS)
def test_norms_match_the_modules(way, rows):
    norm = small_model().norm
    x = torch.randn(rows, 32)
    assert relative_error(norm_of(norm)(x), norm(x)) < TOLERANCE[torch.float32]
