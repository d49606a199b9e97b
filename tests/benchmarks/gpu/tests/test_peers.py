"""Every peer matches the definition, forward and backward, in fp32 on the CPU."""

import importlib.util

import pytest
import torch

from mini_moe.ops import reference
from tests.benchmarks.gpu.cases import Shape, choose_experts
from tests.benchmarks.gpu.peers.layers import Layer, padded_bmm, sorted_rows, triton
from tests.helpers import TOLERANCE, relative_error

SHAPES = [Shape(40, 64, 32, 8, 3), Shape(1, 32, 16, 4, 2), Shape(90, 16, 48, 2, 2)]
PEERS = (
    "mini_moe",
    "PyTorch path",
    "grouped_mm",
    "grouped_mm, bag",
    "cuBLAS loop",
    "padded bmm",
    "transformers grouped_mm",
    "transformers eager",
)


def definition(layer):
    inputs = [
        t.detach().requires_grad_() for t in (layer.x, layer.gates, layer.gate_up, layer.down)
    ]
    x, gates, gate_up, down = inputs
    out = reference.moe_experts(x, layer.ids, gates, gate_up.unflatten(1, (2, -1)), down)
    return out, torch.autograd.grad(out, inputs, layer.grad)


@pytest.mark.parametrize("routing", ["uniform", "zipf"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("peer", PEERS)
def test_peer_agrees_with_the_definition(peer, shape, routing):
    layer = Layer(shape, routing, "cpu", torch.float32)
    out, gradients = definition(layer)
    bound = TOLERANCE[torch.float32]
    assert relative_error(layer.calls(backward=False)[peer](), out) < bound
    found = layer.calls(backward=True)[peer]()
    assert max(map(relative_error, found, gradients)) < bound


def test_batched_mm_is_a_peer_of_few_tokens_only():
    few, many = (Layer(shape, "uniform", "cpu", torch.float32) for shape in (SHAPES[1], SHAPES[0]))
    out, _ = definition(few)
    found = few.calls(backward=False)["transformers batched_mm"]()
    assert relative_error(found, out) < TOLERANCE[torch.float32]
    assert "transformers batched_mm" not in many.peers()


def test_the_dense_network_does_the_same_arithmetic_and_no_more():
    layer = Layer(SHAPES[0], "uniform", "cpu", torch.float32)
    width = SHAPES[0].top_k * SHAPES[0].d_expert
    assert layer.dense_gate_up.shape == (2 * width, 64) and layer.dense_down.shape == (64, width)
    assert [g.shape for g in layer.calls(True)["dense"]()] == [
        t.shape for t in (layer.x, layer.dense_gate_up, layer.dense_down)
    ]


def test_sorting_groups_rows_by_expert_in_the_order_of_tokens():
    rows = sorted_rows(torch.tensor([[2, 0], [0, 2], [0, 3]]), 5)
    assert rows.token.tolist() == [0, 1, 2, 0, 1, 2]
    assert rows.place.tolist() == [[3, 0], [1, 4], [2, 5]]
    assert rows.offsets.tolist() == [0, 3, 3, 5, 6, 6]


def test_padding_that_would_fill_the_memory_is_refused():
    layer = Layer(Shape(64, 16, 16, 32, 1), "uniform", "cpu", torch.float32)
    with pytest.raises(ValueError, match=r"padding makes 32\.0 times the rows"):
        padded_bmm(layer.x, torch.zeros_like(layer.ids), layer.gates, layer.gate_up, layer.down)


def test_triton_is_a_peer_of_the_forward_pass_only():
    layer = Layer(SHAPES[0], "uniform", "cpu", torch.float32)
    with pytest.raises(ValueError, match="forward pass only"):
        layer.calls(backward=True)["Triton"]()


@pytest.mark.skipif(bool(importlib.util.find_spec("triton")), reason="Triton is installed")
def test_without_triton_its_peer_says_so():
    layer = Layer(SHAPES[0], "uniform", "cpu", torch.float32)
    with torch.no_grad(), pytest.raises(ValueError, match="no Triton here"):
        triton(layer.x, layer.ids, layer.gates, layer.gate_up, layer.down)


@pytest.mark.parametrize("routing", ["uniform", "zipf"])
@pytest.mark.parametrize("shape", [*SHAPES, Shape(300, 40, 72, 2, 2)], ids=str)
def test_triton_kernels_agree_with_the_definition(shape, routing, monkeypatch):
    """In Triton's interpreter: numpy instead of a GPU, fp32 only."""
    pytest.importorskip("triton")
    from triton import knobs

    if not knobs.runtime.interpret:
        pytest.skip("needs TRITON_INTERPRET=1")
    layer = Layer(shape, routing, "cpu", torch.float32)
    out, _ = definition(layer)
    found = layer.calls(backward=False)["Triton"]()
    assert relative_error(found, out) < TOLERANCE[torch.float32]


def test_routing_is_the_same_on_every_call():
    one, other = (choose_experts(20, 8, 2, "zipf") for _ in range(2))
    assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])
