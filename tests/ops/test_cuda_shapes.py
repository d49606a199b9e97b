"""The operations on CUDA without a GPU: shapes, dtypes, devices, and which form runs."""

from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from mini_moe.ops import attention, causal_attention, compiled, gate, moe_experts, use
from mini_moe.ops.sorted_experts import most_rows, sorted_experts, sorted_experts_backward
from tests.helpers import without_shape_hook
from tests.kernels.cpu import needs_library

T, K, E, D, WIDTH = 20, 3, 6, 16, 8
GPU = torch.device("cuda", 0)
OPS = torch.ops.mini_moe


@pytest.fixture(autouse=True)
def fake():
    """Use tensors without memory on any device."""
    with FakeTensorMode(), without_shape_hook():
        yield


@pytest.fixture(params=["compiled", "PyTorch"])
def served(request, monkeypatch):
    """Pretend that CUDA kernels were built, or that they were not."""
    reason = "" if request.param == "compiled" else "no nvcc here"
    monkeypatch.setattr(compiled, "CUDA_WHY_NOT", reason)
    return request.param == "compiled"


def arguments(dtype=torch.bfloat16, gates=torch.float32, device=GPU, experts=E):
    """Return x, expert_ids, gates, gate_up_proj and down_proj."""
    return (
        torch.empty(T, D, dtype=dtype, device=device),
        torch.empty(T, K, dtype=torch.long, device=device),
        torch.empty(T, K, dtype=gates, device=device),
        torch.empty(experts, 2, WIDTH, D, dtype=dtype, device=device),
        torch.empty(experts, D, WIDTH, dtype=dtype, device=device),
    )


def assert_like(ours, theirs):
    assert (ours.shape, ours.dtype, ours.device) == (theirs.shape, theirs.dtype, theirs.device)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_layer_knows_its_shapes_on_cuda(served, dtype):
    case = arguments(dtype)
    assert_like(moe_experts(*case), case[0])
    forward, backward, rows = sorted_experts, sorted_experts_backward, most_rows(T * K, E)
    if served and dtype != torch.float64:
        forward, backward, rows = OPS.experts_forward, OPS.experts_backward, T * K
    mixed, saved = forward(*case, True)
    assert_like(mixed, case[0])
    assert saved.shape == (rows, 2 * WIDTH) and saved.device == GPU
    x, _, gates, gate_up, down = case
    for ours, theirs in zip(
        backward(torch.empty_like(x), *case, saved), (x, gates, gate_up, down), strict=True
    ):
        assert_like(ours, theirs)
    assert forward(*case, False)[1].shape == (0, 2 * WIDTH)


@pytest.mark.parametrize("queries", [1, 40, 2000])
def test_attention_on_cuda_is_a_single_call_to_torch(monkeypatch, queries):
    """There is no loop over blocks of queries, neither for training nor for decoding."""
    calls = []
    monkeypatch.setattr(attention, "_fused", lambda *given: calls.append(given))
    query = torch.empty(2, 3, queries, 12, device=GPU)
    key, value = (torch.empty(2, 3, 2000, width, device=GPU) for width in (12, 8))
    causal_attention(query, key, value, 0.3)
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        (arguments, True),
        (lambda: arguments(torch.float32, torch.bfloat16), True),
        (lambda: arguments(torch.float64), False),
        (lambda: arguments(torch.float16), False),
        (lambda: arguments(gates=torch.float64), False),
        (lambda: arguments(experts=1024), True),
        (lambda: arguments(experts=1025), False),
        (lambda: arguments(device="meta"), False),
    ],
)
def test_compiled_kernels_accept_what_they_support(monkeypatch, case, expected):
    monkeypatch.setattr(compiled, "CUDA_WHY_NOT", "")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    compiled.has_tensor_cores_for_bf16.cache_clear()
    x, _, gates, gate_up, _ = case()
    assert compiled.serves_experts(x, gates, len(gate_up)) == expected
    with use("pytorch"):
        assert not compiled.serves_experts(x, gates, len(gate_up))


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), False), ((8, 0), True)])
def test_old_gpu_falls_back_to_pytorch(monkeypatch, capability, expected):
    monkeypatch.setattr(compiled, "CUDA_WHY_NOT", "")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    compiled.has_tensor_cores_for_bf16.cache_clear()
    x, _, gates, gate_up, _ = arguments()
    try:
        assert compiled.serves_experts(x, gates, len(gate_up)) == expected
    finally:
        compiled.has_tensor_cores_for_bf16.cache_clear()


@needs_library
def test_stages_know_their_shapes_on_cuda():
    x, ids, gates, gate_up, down = arguments()
    token, place, counts, offsets = OPS.sort_rows(ids, E)
    shapes = [t.shape for t in (token, place, counts, offsets)]
    assert shapes == [(T * K,), (T, K), (E,), (E + 1,)]
    hidden, saved = OPS.grouped_swiglu(x, token, offsets, gate_up, True)
    rows = OPS.grouped_gemm(hidden, offsets, down, True)
    mixed = OPS.combine(rows, place, gates)
    wgrad = OPS.grouped_wgrad(rows, hidden, offsets)
    shapes = [t.shape for t in (hidden, saved, rows, mixed, wgrad)]
    assert shapes == [(T * K, WIDTH), (T * K, 2 * WIDTH), (T * K, D), (T, D), (E, D, WIDTH)]
    assert all(t.device == GPU for t in (token, place, counts, offsets, mixed, wgrad))


class Context(SimpleNamespace):
    """A stand-in for autograd's context, which can't be created for CUDA without a GPU."""

    def save_for_backward(self, *tensors):
        self.saved_tensors = tensors

    def mark_non_differentiable(self, *_):
        pass

    set_materialize_grads = mark_non_differentiable


@needs_library
@pytest.mark.parametrize("missing", ["nothing", "gates", "scores"])
def test_gradient_of_the_gate_has_the_type_of_its_logits_on_cuda(missing):
    logits = torch.empty(T, E, dtype=torch.bfloat16, device=GPU)
    call = (logits, None, K, 1, 1, False, False, True, 2.5)
    gates, ids, scores, choice_scores = outputs = OPS.topk_gate(*call)
    context = Context()
    gate._save_gate(context, call, outputs)
    given = (
        None if missing == "gates" else gates,
        ids,
        None if missing == "scores" else scores,
        choice_scores,
    )
    grad, *others = gate.gate_backward(context, *given)
    assert_like(grad, logits)
    assert others == [None] * (len(call) - 1)
