"""The activation's gradient equals autograd's in float64, and touches nothing else."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close as close

from mini_moe.checker import DTYPES
from mini_moe.ops import sort_rows
from tests.kernels.test_sort_rows import EDGES, distinct, shuffled

TOLERANCE = {torch.float32: dict(atol=1e-5, rtol=1e-5), torch.bfloat16: dict(atol=2e-2, rtol=1e-2)}
RESULTS = ("grad_both", "weighted", "grad_gates")


def run(kernels, grad_hidden, saved, place, gates):
    """Return the kernel's (grad_both, weighted, grad_gates), and how much it left unwritten."""
    rows, d_expert = grad_hidden.shape
    outputs = [
        kernels.output("grad_both", saved.shape, saved.dtype),
        kernels.output("weighted", grad_hidden.shape, saved.dtype),
        kernels.output("grad_gates", gates.shape, torch.float32),
    ]
    kernels.call(
        "swiglu_backward",
        kernels.input("grad_hidden", grad_hidden),
        kernels.input("saved", saved),
        DTYPES[saved.dtype],
        kernels.input("place", place),
        kernels.input("gates", gates),
        *outputs,
        place.numel(),
        rows,
        d_expert,
    )
    return outputs, [kernels.unwritten(output) for output in outputs]


def oracle(grad_hidden, saved, place, gates):
    """Compute the same with autograd, in float64."""
    both = saved.double().requires_grad_()
    weights = gates.double().requires_grad_()
    gate, up = both.chunk(2, dim=-1)
    hidden = F.silu(gate) * up
    weighted = torch.zeros_like(hidden)
    weighted[place.flatten()] = weights.flatten()[:, None] * hidden[place.flatten()]
    (weighted * grad_hidden.double()).sum().backward()
    return both.grad, weighted.detach(), weights.grad


def case(ids, experts, d_expert, dtype):
    rows = ids.numel()
    hidden, saved = torch.randn(rows, d_expert), 2 * torch.randn(rows, 2 * d_expert)
    place = sort_rows(ids, experts).place
    return hidden.to(dtype), saved.to(dtype), place, torch.rand(ids.shape)


def assert_exact(kernels, hidden, saved, place, gates):
    found, unwritten = run(kernels, hidden, saved, place, gates)
    assert unwritten == [0, 0, 0]
    expected = oracle(hidden, saved, place, gates)
    for name, ours, theirs in zip(RESULTS, found, expected, strict=True):
        close(
            ours.double(), theirs, **TOLERANCE[saved.dtype], msg=lambda text, name=name: name + text
        )
    return found


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_edge_counts(kernels, dtype):
    assert_exact(kernels, *case(shuffled(EDGES), len(EDGES), 16, dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("d_expert", [1, 2, 7, 8, 12, 63, 130, 256, 520])
def test_every_width(kernels, d_expert, dtype):
    assert_exact(kernels, *case(distinct(9, 2, 6), 6, d_expert, dtype))


@pytest.mark.parametrize("top_k", range(1, 9))
def test_every_top_k(kernels, top_k):
    assert_exact(kernels, *case(distinct(13, top_k, 9), 9, 24, torch.float32))


def test_misaligned_rows_take_the_narrow_path(kernels):
    hidden, saved, place, gates = case(distinct(9, 2, 6), 6, 16, torch.float32)
    aligned, _ = run(kernels, hidden, saved, place, gates)
    shifted = kernels.input("saved", torch.cat((torch.zeros(1), saved.flatten())))[1:]
    outputs = [
        kernels.output(name, t.shape, t.dtype) for name, t in zip(RESULTS, aligned, strict=True)
    ]
    kernels.call(
        "swiglu_backward", kernels.input("grad_hidden", hidden), shifted, 0,
        kernels.input("place", place), kernels.input("gates", gates), *outputs, 18, 18, 16,
    )  # fmt: skip
    close(outputs, aligned)


def test_skipped_choice_has_no_gradient_and_writes_no_row(kernels):
    hidden, saved, place, gates = case(distinct(9, 2, 6), 6, 16, torch.float32)
    skipped = place.clone()
    skipped[3, 1], skipped[5, 0] = -1, 18
    (both, weighted, grad_gates), unwritten = run(kernels, hidden, saved, skipped, gates)
    assert grad_gates[3, 1] == grad_gates[5, 0] == 0
    assert unwritten == [2 * 32, 2 * 16, 0]
    expected = oracle(hidden, saved, place, gates)
    kept = torch.ones(18, dtype=torch.bool)
    kept[torch.stack((place[3, 1], place[5, 0]))] = False
    close(both[kept].double(), expected[0][kept], **TOLERANCE[torch.float32])
    close(weighted[kept].double(), expected[1][kept], **TOLERANCE[torch.float32])


def test_large_numbers_stay_finite(kernels):
    """e^-g overflows at -90: σ is 0 then, and so are the gradients."""
    saved = torch.tensor([[-1e4, 1e4, -100.0, 0.0, 3.0, -2.0, 1.0, 5.0]])
    hidden, gates, place = torch.ones(1, 4), torch.ones(1, 1), torch.zeros(1, 1, dtype=torch.int64)
    assert_exact(kernels, hidden, saved, place, gates)


def test_nan_of_one_row_stays_there(kernels):
    hidden, saved, place, gates = case(distinct(9, 2, 6), 6, 16, torch.float32)
    saved[4, 3] = torch.nan
    (both, weighted, grad_gates), _ = run(kernels, hidden, saved, place, gates)
    others = torch.arange(18) != 4
    assert both[others].isfinite().all() and weighted[others].isfinite().all()
    assert grad_gates[place != 4].isfinite().all() and grad_gates[place == 4].isnan().all()


def test_order_of_threads_and_blocks_does_not_matter(kernels):
    arguments = case(distinct(33, 5, 9), 9, 40, torch.float32)
    forward, _ = run(kernels, *arguments)
    with kernels.reversed_order():
        backward, _ = run(kernels, *arguments)
    assert all(a.equal(b) for a, b in zip(forward, backward, strict=True))


def test_rows_are_read_and_written_whole(kernels):
    hidden, saved, place, gates = case(distinct(8, 2, 4), 4, 256, torch.bfloat16)
    outputs = [
        kernels.output("grad_both", saved.shape, saved.dtype),
        kernels.output("weighted", hidden.shape, saved.dtype),
        kernels.output("grad_gates", gates.shape, torch.float32),
    ]
    traffic = kernels.recorded(
        "swiglu_backward", kernels.input("grad_hidden", hidden), kernels.input("saved", saved), 1,
        kernels.input("place", place), kernels.input("gates", gates), *outputs, 16, 16, 256,
    )  # fmt: skip
    wide = [t for t in traffic if t.buffer in ("saved", "grad_hidden", "grad_both", "weighted")]
    assert sum(t.bytes for t in wide) == 6 * 16 * 256 * 2
    assert all(t.sectors == t.best_sectors == t.bytes // 32 for t in wide)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((4, 8, 0), "d_expert: expected at least 1, got 0"),
        ((-1, 8, 16), "n_choices: expected 0 to 2^31 - 1, got -1"),
        ((2**31, 8, 16), "n_choices: expected 0 to 2^31 - 1, got 2147483648"),
        ((4, -3, 16), "n_rows: expected a size that fits 64 bits, got -3"),
    ],
)
def test_bad_arguments_are_refused_by_name(kernels, arguments, message):
    with pytest.raises(ValueError) as error:
        kernels.call("swiglu_backward", None, None, 0, *[None] * 5, *arguments)
    assert message in str(error.value)
