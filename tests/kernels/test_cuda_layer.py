"""The layer, launcher by launcher, as kernels/cuda/experts.cpp calls them, in watched memory.

No kernel may read what an earlier one left unwritten, even if ids name no expert.
"""

import pytest
import torch

from mini_moe.checker import DTYPES
from tests.helpers import TOLERANCE, relative_error
from tests.kernels.test_sort_rows import EDGES, distinct, run_sort, shuffled
from tests.ops.expert_cases import exact, random_case, with_ids


class Layer:
    """The launchers' arguments: inputs in watched memory, outputs by name."""

    def __init__(self, kernels, case):
        self.kernels, self.type = kernels, DTYPES[case.x.dtype]
        self.dtype = case.x.dtype
        plain = case._replace(gates=case.gates.float())
        self.x, self.ids, self.gates, self.gate_up, self.down = (
            kernels.input(name, t.detach()) for name, t in zip(case._fields, plain, strict=True)
        )
        (self.tokens, self.top_k), self.experts = case.expert_ids.shape, len(case.gate_up_proj)
        _, _, self.d_expert, self.d_model = case.gate_up_proj.shape
        self.rows = self.tokens * self.top_k

    def output(self, name, *shape, dtype=None):
        return self.kernels.output(name, shape, dtype or self.dtype)

    def sort(self):
        self.token, self.place, _, self.offsets = run_sort(self.kernels, self.ids, self.experts)

    def gemm(self, name, a, a_row, n_source, b, k, n, transposed):
        out = self.output(name, self.rows, n)
        sizes = (self.rows, self.experts, k, n, transposed)
        self.kernels.call(
            "grouped_gemm", a, self.type, a_row, n_source, b, self.offsets, out, *sizes
        )
        return out

    def wgrad(self, name, a, a_row, n_a, b, b_row, n_b, m, n):
        out = self.output(name, self.experts, m, n)
        sizes = (self.rows, self.experts, m, n)
        self.kernels.call(
            "grouped_wgrad", a, a_row, n_a, b, b_row, n_b, self.type, self.offsets, out, *sizes
        )
        return out

    def combine(self, name, rows, gates):
        out = self.output(name, self.tokens, self.d_model)
        sizes = (self.tokens, self.rows, self.d_model, self.top_k)
        self.kernels.call("combine_forward", rows, self.type, self.place, gates, out, *sizes)
        assert not self.kernels.unwritten(out)
        return out

    def forward(self):
        self.sort()
        hidden = self.output("hidden", self.rows, self.d_expert)
        self.saved = self.output("saved", self.rows, 2 * self.d_expert)
        sizes = (self.rows, self.experts, self.d_model, self.d_expert)
        self.kernels.call(
            "grouped_swiglu", self.x, self.type, self.token, self.tokens, self.gate_up,
            self.offsets, hidden, self.saved, *sizes,
        )  # fmt: skip
        rows = self.gemm("rows", hidden, None, self.rows, self.down, self.d_expert, self.d_model, 1)
        return self.combine("mixed", rows, self.gates)

    def backward(self, grad):
        grad = self.kernels.input("grad", grad)
        d, f, rows = self.d_model, self.d_expert, self.rows
        grad_hidden = self.gemm("grad_hidden", grad, self.token, self.tokens, self.down, d, f, 0)
        both, weighted = self.output("both", rows, 2 * f), self.output("weighted", rows, f)
        grad_gates = self.output("grad_gates", self.tokens, self.top_k, dtype=torch.float32)
        self.kernels.call(
            "swiglu_backward", grad_hidden, self.saved, self.type, self.place, self.gates, both,
            weighted, grad_gates, rows, rows, f,
        )  # fmt: skip
        down = self.wgrad("grad_down", grad, self.token, self.tokens, weighted, None, rows, d, f)
        gate_up = self.wgrad(
            "grad_gate_up", both, None, rows, self.x, self.token, self.tokens, 2 * f, d
        )
        grad_rows = self.gemm("grad_rows", both, None, rows, self.gate_up, 2 * f, d, 0)
        assert not any(map(self.kernels.unwritten, (grad_gates, down, gate_up)))
        grad_x = self.combine("grad_x", grad_rows, None)
        return grad_x, grad_gates, gate_up.view(-1, 2, f, d), down


def assert_exact(kernels, case, exact_case, kept=None):
    """Output and gradients of `case` are the definition's of `exact_case`."""
    draw = torch.Generator().manual_seed(2)
    grad = torch.randn(case.x.shape, generator=draw).to(case.x.dtype)
    layer = Layer(kernels, case)
    found = [layer.forward(), *layer.backward(grad)]
    expected = exact(exact_case, grad)
    if kept is not None:
        expected[2] *= kept
    for ours, theirs in zip(found, expected, strict=True):
        assert relative_error(ours, theirs) <= TOLERANCE[case.x.dtype]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("widths", [(16, 8), (10, 7)], ids=str)
def test_layer_is_the_definition(kernels, widths, dtype):
    case = with_ids(random_case(449, 1, len(EDGES), *widths, dtype), shuffled(EDGES))
    assert_exact(kernels, case, case)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("top_k", [1, 2, 3, 6])
def test_any_number_of_choices(kernels, top_k, dtype):
    case = with_ids(random_case(30, top_k, 7, 24, 16, dtype), distinct(30, top_k, 7, skew=1.0))
    assert_exact(kernels, case, case)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bad", [-1, 7, 2**40, -(2**62)])
def test_choice_of_an_expert_that_does_not_exist_counts_nothing(kernels, bad, dtype):
    """Its row belongs to no expert, and no kernel reads unwritten memory."""
    case = random_case(70, 3, 7, 24, 16, dtype)
    broken, kept = case.expert_ids.clone(), torch.ones(70, 3, dtype=torch.bool)
    for at in ((0, 0), (3, 1), (5, 0), (5, 1), (5, 2), (69, 2)):
        broken[at], kept[at] = bad, False
    silent = case._replace(gates=(case.gates.detach() * kept).requires_grad_())
    assert_exact(kernels, with_ids(case, broken), silent, kept)


def test_no_choice_at_all_may_be_valid(kernels):
    case = with_ids(random_case(9, 2, 4, 16, 8), torch.full((9, 2), -1))
    layer = Layer(kernels, case)
    assert not layer.forward().any()
    assert not any(gradient.any() for gradient in layer.backward(torch.ones(9, 16)))
