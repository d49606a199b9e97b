"""Shared by the tests of the grouped products: rows sorted by expert, and expected results."""

import torch

from mini_moe.checker import DTYPES

TOLERANCE = {torch.float32: dict(atol=1e-4, rtol=1e-4), torch.bfloat16: dict(atol=3e-2, rtol=2e-2)}
WIDTHS = [(8, 8), (32, 64), (40, 72), (264, 136), (23, 39), (1, 1), (7, 130), (36, 20)]


def offsets_of(counts):
    return torch.tensor([0, *counts]).cumsum(0)


def random(*shape, dtype):
    return torch.randn(shape).to(dtype)


def some_rows(n_rows, n_source_rows):
    """Return an index with repeats, and with values out of range on either side."""
    return torch.randint(-2, n_source_rows + 2, (n_rows,))


def taken(source, index, n_rows):
    """Return rows in fp32 as a kernel should see them: zeros if the index is out of range."""
    if index is None:
        return source[:n_rows].float()
    exists = (index >= 0) & (index < len(source))
    return torch.where(exists[:, None], source[index.clamp(0, len(source) - 1)].float(), 0)


def products(rows, weights, offsets):
    """Return [rows, n]: every row times its expert's matrix [k, n]; zeros past the last expert."""
    out = torch.zeros(len(rows), weights.shape[-1])
    for e in range(len(weights)):
        here = slice(offsets[e], offsets[e + 1])
        out[here] = rows[here] @ weights[e].float()
    return out


def inputs(kernels, **tensors):
    """Copy tensors into watched memory, read-only; null for None."""
    return [None if t is None else kernels.input(name, t) for name, t in tensors.items()]


def assert_close(actual, expected):
    torch.testing.assert_close(actual.float(), expected, **TOLERANCE[actual.dtype])


def type_of(tensor):
    return DTYPES[tensor.dtype]


def uses_every_byte(traffic, buffers):
    """Assert that every sector moved is fully used and shared memory has no bank conflicts."""
    moved = [t for t in traffic if t.buffer in buffers]
    assert {t.buffer for t in moved} == set(buffers)
    assert all(t.sectors == t.best_sectors for t in moved)
    shared = [t for t in traffic if t.space == "shared"]
    assert shared and all(t.wavefronts == t.best_wavefronts for t in shared)
    return True
