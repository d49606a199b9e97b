"""Bad arguments are named before anything runs; bad values in GPU memory do no harm."""

import pytest
import torch

from mini_moe.ops import moe_experts
from tests.gpu.common import DEVICE, needs_gpu, no_rehearsal, on_gpu
from tests.gpu.test_stages import EXPERTS, OFFSETS, OPS, ROWS, calls
from tests.helpers import without_shape_hook
from tests.ops.expert_cases import random_case

pytestmark = needs_gpu

LAYER = {
    "x": [lambda t: t[:, :-1], lambda t: t.flatten(), lambda t: t.double()],
    "expert_ids": [lambda t: t[:-1], lambda t: t[:, :0], lambda t: t.int()],
    "gates": [lambda t: t[:, :1], lambda t: t.half()],
    "gate_up_proj": [lambda t: t.flatten(1, 2), lambda t: t.bfloat16()],
    "down_proj": [lambda t: t.transpose(1, 2), lambda t: t.bfloat16()],
}


@pytest.mark.parametrize(
    ("name", "change"), [(name, change) for name, changes in LAYER.items() for change in changes]
)
def test_argument_of_the_layer_that_does_not_fit_is_named(name, change):
    case = on_gpu(random_case(3, 2, 4))
    bad = case._replace(**{name: change(getattr(case, name))})
    with pytest.raises(RuntimeError, match=r"mini_moe: \w+: .*expected, got") as error:
        OPS.experts_forward(*(t.detach() for t in bad), True)
    mentioned = str(error.value).partition("mini_moe: ")[2].partition(":")[0]
    # sizes are compared with those of weights and ids, so the error may name the other side
    assert mentioned in {name, "x", "gates", "down_proj", "gate_up_proj"}


@no_rehearsal
@pytest.mark.parametrize("name", LAYER)
def test_every_tensor_of_the_layer_must_be_on_the_gpu(name):
    case = on_gpu(random_case(3, 2, 4))
    bad = case._replace(**{name: getattr(case, name).cpu()})
    with pytest.raises(RuntimeError, match=f"mini_moe: {name}: a tensor on .* the CPU"):
        OPS.experts_forward(*(t.detach() for t in bad), True)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("grad", torch.zeros(3, 11)),
        ("grad", torch.zeros(3, 12, dtype=torch.bfloat16)),
        ("saved", torch.zeros(5, 20)),
        ("saved", torch.zeros(6, 20, dtype=torch.bfloat16)),
    ],
)
def test_gradient_that_does_not_fit_is_named(name, value):
    case = [tensor.detach() for tensor in on_gpu(random_case(3, 2, 4))]
    fitting = {"grad": torch.zeros(3, 12), "saved": torch.zeros(6, 20)} | {name: value}
    fitting = {key: tensor.to(DEVICE) for key, tensor in fitting.items()}
    with pytest.raises(RuntimeError, match=f"mini_moe: {name}: .*expected, got"):
        OPS.experts_backward(fitting["grad"], *case, fitting["saved"])


def test_complaints_of_the_library_are_value_errors():
    case = on_gpu(random_case(3, 2, 4))
    mixed = case._replace(down_proj=case.down_proj.detach().bfloat16())
    with without_shape_hook(), pytest.raises(ValueError, match="down_proj: float32 expected"):
        moe_experts(*mixed)


@no_rehearsal
def test_tensors_of_two_devices_are_refused():
    case = on_gpu(random_case(3, 2, 4))
    elsewhere = case._replace(gates=case.gates.detach().cpu())
    with without_shape_hook(), pytest.raises(ValueError, match="gates: a tensor on cuda:0"):
        moe_experts(*elsewhere)


STEPS = [
    ("sort_rows", 0, torch.zeros(3, dtype=torch.long), "expert_ids: "),
    ("sort_rows", 0, torch.zeros(3, 2, dtype=torch.int), "expert_ids: int64 expected, got int32"),
    ("sort_rows", 1, 0, "n_experts: 1 to 1024 on CUDA expected, got 0"),
    ("sort_rows", 1, 1025, "n_experts: 1 to 1024 on CUDA expected, got 1025"),
    ("grouped_swiglu", 0, torch.zeros(9, 15), "x: "),
    ("grouped_swiglu", 1, torch.zeros(ROWS), "token: int64 expected, got float32"),
    ("grouped_swiglu", 2, OFFSETS[:-1], "offsets: "),
    ("grouped_swiglu", 3, torch.zeros(EXPERTS, 2, 8, 16).double(), "gate_up_proj: float32"),
    ("grouped_gemm", 0, torch.zeros(ROWS, 11), "a: "),
    ("grouped_gemm", 0, torch.zeros(ROWS, 16).half(), "a: float32 or bfloat16 expected"),
    ("grouped_gemm", 1, OFFSETS.int(), "offsets: int64 expected, got int32"),
    ("grouped_gemm", 2, torch.zeros(EXPERTS, 8, 16).double(), "b: float32 expected"),
    ("grouped_wgrad", 1, torch.zeros(ROWS - 1, 8), "b: "),
    ("grouped_wgrad", 2, OFFSETS[:1], "offsets: "),
    ("combine", 0, torch.zeros(ROWS), "rows: "),
    ("combine", 1, torch.zeros(9, 2), "place: int64 expected, got float32"),
    ("combine", 2, torch.rand(9, 3), "gates: "),
    ("topk_gate", 0, torch.zeros(6), "logits: "),
    ("topk_gate", 1, torch.zeros(7), "bias: "),
    ("topk_gate", 1, torch.zeros(8).bfloat16(), "bias: float32 expected, got bfloat16"),
    ("topk_gate", 2, 9, "top_k: "),
    ("topk_gate", 3, 3, "n_groups: "),
    ("topk_gate", 8, float("nan"), "route_scale: "),
]


@pytest.mark.parametrize(("name", "position", "bad", "named"), STEPS)
def test_argument_of_a_step_that_does_not_fit_is_named(name, position, bad, named):
    arguments = list(calls()[name])
    arguments[position] = bad.to(DEVICE) if isinstance(bad, torch.Tensor) else bad
    with torch.no_grad(), pytest.raises(RuntimeError, match=f"mini_moe: {named}"):
        getattr(OPS, name)(*arguments)


@no_rehearsal
@pytest.mark.parametrize("name", ["grouped_swiglu", "grouped_gemm", "grouped_wgrad", "combine"])
def test_every_tensor_of_a_step_must_be_on_the_gpu(name):
    for position, argument in enumerate(calls()[name]):
        if not isinstance(argument, torch.Tensor):
            continue
        arguments = list(calls()[name])
        arguments[position] = argument.detach().cpu()
        with torch.no_grad(), pytest.raises(RuntimeError, match="mini_moe: .* on the CPU"):
            getattr(OPS, name)(*arguments)


@pytest.mark.parametrize(
    "offsets",
    [OFFSETS.flip(0), OFFSETS + 10**6, OFFSETS - 10**6, torch.full_like(OFFSETS, 2**62)],
    ids=["descending", "too large", "negative", "huge"],
)
def test_offsets_that_do_not_fit_touch_no_foreign_memory(offsets):
    """Results are then wrong, but no kernel fails, and the next one works as before."""
    for name, position in (("grouped_swiglu", 2), ("grouped_gemm", 1), ("grouped_wgrad", 2)):
        arguments = list(calls()[name])
        arguments[position] = offsets.to(DEVICE)
        with torch.no_grad():
            getattr(OPS, name)(*arguments)
        if DEVICE == "cuda":
            torch.cuda.synchronize()


def test_token_that_does_not_exist_counts_as_zeros():
    x, token, offsets, weights, _ = calls()["grouped_swiglu"]
    broken = token.clone()
    broken[[0, 5, ROWS - 1]] = torch.tensor([-1, 9, 2**40], device=DEVICE)
    with torch.no_grad():
        good, _ = OPS.grouped_swiglu(x, token, offsets, weights, True)
        hidden, _ = OPS.grouped_swiglu(x, broken, offsets, weights, True)
    same = torch.ones(ROWS, dtype=torch.bool, device=DEVICE)
    same[[0, 5, ROWS - 1]] = False
    assert torch.equal(hidden[same], good[same]) and not hidden[~same].any()
