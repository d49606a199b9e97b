"""The compiled first half of the experts equals gather, two products and SwiGLU, in one pass."""

import pytest
import torch
import torch.nn.functional as F

from mini_moe.checker import DTYPES
from tests.kernels.grouped import (
    WIDTHS,
    assert_close,
    inputs,
    offsets_of,
    products,
    random,
    some_rows,
    taken,
    type_of,
    uses_every_byte,
)
from tests.kernels.test_sort_rows import EDGES

CONFIGURATIONS = range(4)


def run(kernels, x, token, gate_up, offsets, n_rows, *, save=True, configuration=-1, call=None):
    """Return (hidden, saved or None, the result of `call`)."""
    experts, _, d_expert, d_model = gate_up.shape
    hidden = kernels.output("hidden", (n_rows, d_expert), x.dtype)
    saved = kernels.output("saved", (n_rows, 2 * d_expert), x.dtype) if save else None
    x_, token_, weights, offsets_ = inputs(
        kernels, x=x, token=token, gate_up=gate_up, offsets=offsets
    )
    traffic = (call or kernels.call)(
        "grouped_swiglu_configured", configuration, x_, type_of(x), token_, len(x), weights,
        offsets_, hidden, saved, n_rows, experts, d_model, d_expert,
    )  # fmt: skip
    assert kernels.unwritten(hidden) == 0
    assert not save or kernels.unwritten(saved) == 0
    return hidden, saved, traffic


def assert_swiglu(kernels, counts, d_model, d_expert, *, dtype=torch.bfloat16, indexed=True,
                  behind=0, **more):  # fmt: skip
    offsets = offsets_of(counts)
    n_rows = int(offsets[-1]) + behind
    x = random(31 if indexed else n_rows, d_model, dtype=dtype)
    token = some_rows(n_rows, len(x)) if indexed else None
    gate_up = random(len(counts), 2, d_expert, d_model, dtype=dtype) / d_model**0.5
    hidden, saved, _ = run(kernels, x, token, gate_up, offsets, n_rows, **more)
    rows = taken(x, token, n_rows)
    g, u = (products(rows, gate_up[:, half].mT, offsets) for half in (0, 1))
    assert_close(hidden, F.silu(g) * u)
    if saved is not None:
        assert_close(saved, torch.cat((g, u), dim=1))


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
class TestEveryConfiguration:
    def test_edge_counts(self, kernels, configuration):
        assert_swiglu(kernels, EDGES, 40, 24, behind=3, configuration=configuration)

    def test_more_steps_than_stages(self, kernels, configuration):
        assert_swiglu(kernels, [70, 0, 131], 328, 136, configuration=configuration)

    def test_without_saving(self, kernels, configuration):
        assert_swiglu(kernels, [66], 64, 72, save=False, indexed=False, configuration=configuration)

    def test_every_byte_that_moves_is_used_without_bank_conflicts(self, kernels, configuration):
        x = random(128, 64, dtype=torch.bfloat16)
        gate_up = random(1, 2, 128, 64, dtype=torch.bfloat16)
        *_, traffic = run(
            kernels, x, torch.randperm(128), gate_up, offsets_of([128]), 128,
            configuration=configuration, call=kernels.recorded,
        )  # fmt: skip
        assert uses_every_byte(traffic, ["x", "gate_up", "hidden", "saved"])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
class TestBothTypes:
    @pytest.mark.parametrize(("d_model", "d_expert"), WIDTHS)
    def test_every_width(self, kernels, d_model, d_expert, dtype):
        assert_swiglu(kernels, [70, 0, 5], d_model, d_expert, dtype=dtype)

    def test_edge_counts(self, kernels, dtype):
        assert_swiglu(kernels, EDGES, 24, 16, dtype=dtype, behind=2)

    @pytest.mark.parametrize(("counts", "behind"), [([0, 0], 0), ([0, 0], 5), ([1], 0)])
    @pytest.mark.parametrize("save", [False, True])
    def test_smallest(self, kernels, counts, behind, save, dtype):
        assert_swiglu(kernels, counts, 8, 8, dtype=dtype, behind=behind, save=save)

    def test_large_and_infinite_gates(self, kernels, dtype):
        """silu(±inf): inf above, 0 · inf = NaN below, as in torch."""
        x = torch.tensor([[200.0], [-200.0], [float("inf")], [float("nan")]]).to(dtype)
        gate_up = torch.ones(1, 2, 8, 1).to(dtype)
        hidden, *_ = run(kernels, x, None, gate_up, offsets_of([4]), 4)
        expected = F.silu(x.float()) * x.float()
        torch.testing.assert_close(
            hidden.float(), expected.to(dtype).float().expand(4, 8), equal_nan=True
        )

    def test_order_of_threads_and_blocks_does_not_matter(self, kernels, dtype):
        case = (
            random(9, 40, dtype=dtype), some_rows(135, 9), random(3, 2, 72, 40, dtype=dtype),
            offsets_of([70, 0, 65]), 135,
        )  # fmt: skip
        hidden, saved, _ = run(kernels, *case)
        with kernels.reversed_order():
            hidden_again, saved_again, _ = run(kernels, *case)
        assert hidden_again.equal(hidden)
        assert saved_again.equal(saved)


@pytest.mark.parametrize("moved", ["x", "hidden", "saved"])
def test_misaligned_buffers_take_the_plain_kernel(kernels, moved):
    x, gate_up = random(3, 16, dtype=torch.bfloat16), random(1, 2, 8, 16, dtype=torch.bfloat16) / 4
    first = {name: int(name == moved) for name in ("x", "hidden", "saved")}
    x_ = kernels.input("x", torch.cat((torch.zeros(first["x"]).bfloat16(), x.flatten())))
    hidden = kernels.output("hidden", (3 * 8 + 1,), torch.bfloat16)[first["hidden"] :]
    saved = kernels.output("saved", (3 * 16 + 1,), torch.bfloat16)[first["saved"] :]
    gate_up_, offsets = inputs(kernels, gate_up=gate_up, offsets=offsets_of([3]))
    kernels.call(
        "grouped_swiglu",
        x_[first["x"] :],
        1,
        None,
        3,
        gate_up_,
        offsets,
        hidden,
        saved,
        3,
        1,
        16,
        8,
    )
    g, u = (x.float() @ gate_up[0, half].float().T for half in (0, 1))
    assert_close(hidden[:24].view(3, 8), F.silu(g) * u)
    assert_close(saved[:48].view(3, 16), torch.cat((g, u), dim=1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(type=7), "type: expected fp32 (0) or bf16 (1), got 7"),
        (dict(n_rows=-1), "n_rows: expected 0 to 2^31 - 1, got -1"),
        (dict(n_tokens=3), "n_tokens: expected at least n_rows=4 without an index, got 3"),
        (dict(n_experts=65537), "n_experts: expected 1 to 65536, got 65537"),
        (dict(d_model=0), "d_model: expected 1 to 2^20, got 0"),
        (dict(d_expert=-8), "d_expert: expected 1 to 2^20, got -8"),
        (dict(configuration=4), "configuration: expected -1 to 3, got 4"),
        (dict(x=None), "x: expected an address, got null"),
        (dict(gate_up=None), "gate_up: expected an address, got null"),
        (dict(hidden=None), "hidden: expected an address, got null"),
    ],
)
def test_bad_arguments_are_refused_by_name(kernels, change, message):
    v = dict(configuration=-1, type=1, n_tokens=4, n_rows=4, n_experts=2, d_model=16, d_expert=16)
    v |= change
    place = kernels.output("place", (1,), torch.float32)
    x, gate_up, hidden = (v.get(name, place) for name in ("x", "gate_up", "hidden"))
    with pytest.raises(ValueError) as error:
        kernels.call(
            "grouped_swiglu_configured", v["configuration"], x, v["type"], None, v["n_tokens"],
            gate_up, place, hidden, None, v["n_rows"], v["n_experts"], v["d_model"], v["d_expert"],
        )  # fmt: skip
    assert message in str(error.value)


def test_there_are_as_many_configurations_as_are_tested(kernels):
    assert kernels.library.grouped_swiglu_configurations() == len(CONFIGURATIONS)
