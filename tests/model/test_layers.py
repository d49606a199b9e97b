"""RMSNorm and SwiGLU against their formulas."""

import pytest
import torch

from mini_moe.model.layers import RMSNorm, SwiGLU
from tests.helpers import TOLERANCE, relative_error


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_norm_is_the_formula_whatever_the_size_of_the_input(dtype, size):
    torch.manual_seed(0)
    norm = RMSNorm(48, eps=1e-6).to(dtype)
    torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
    x = (torch.randn(3, 5, 48) * size).to(dtype)
    wide = x.double()
    rms = (wide.pow(2).sum(-1, keepdim=True) / 48 + 1e-6).sqrt()
    normed = norm(x)
    assert normed.dtype == dtype
    assert relative_error(normed, norm.weight.double() * wide / rms) <= TOLERANCE[dtype]


def test_norm_leaves_mean_square_one():
    x = torch.randn(10, 64) * 7
    assert torch.allclose(RMSNorm(64, 1e-6)(x).pow(2).mean(-1), torch.ones(10))


def test_norm_of_zero_is_zero_with_finite_gradient():
    x = torch.zeros(2, 8, requires_grad=True)
    normed = RMSNorm(8, 1e-6)(x)
    normed.sum().backward()
    assert not normed.any() and x.grad.isfinite().all()


def test_norm_squares_in_single_precision():
    """300² overflows float16 and 256 + 1 rounds to 256 in bfloat16; neither may happen inside."""
    x = torch.full((1, 1024), 300.0, dtype=torch.float16)
    assert torch.equal(RMSNorm(1024, 1e-6).half()(x), torch.ones_like(x))


def test_norm_gradients_match_finite_differences():
    norm = RMSNorm(6, 1e-6).double()
    x = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(norm, x)


def test_swiglu_is_the_formula():
    torch.manual_seed(0)
    network = SwiGLU(12, 20).double()
    x = torch.randn(4, 12, dtype=torch.float64)
    gate, up = x @ network.gate_proj.weight.T, x @ network.up_proj.weight.T
    expected = (gate / (1 + (-gate).exp()) * up) @ network.down_proj.weight.T
    assert relative_error(network(x), expected) <= TOLERANCE[torch.float64]
