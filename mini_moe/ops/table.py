"""The table of all operations: what defines each one and what can compute it."""

from collections.abc import Callable
from typing import NamedTuple

import torch

from mini_moe.ops import compiled, reference
from mini_moe.ops.attention import causal_attention
from mini_moe.ops.sorted_experts import sorted_experts

ALIKE = "float32 or bfloat16"


class Operation(NamedTuple):
    """One operation and its forms. `cpu` and `cuda` name compiled operations, `mini_moe::NAME`."""

    name: str  # in `mini_moe.ops`
    definition: Callable | str  # a function in `reference.py`, or a description
    pytorch: Callable | None  # the fast PyTorch form; None: the definition is fast
    cpu: str | None
    cuda: str | None
    when: (
        str  # what the compiled form accepts; the PyTorch form accepts whatever the definition does
    )


TABLE = (
    Operation(
        "moe_experts", reference.moe_experts, sorted_experts, "experts_forward", "experts_forward",
        f"{ALIKE}; on CUDA, compute capability 8.0 or higher and up to 1,024 experts",
    ),
    Operation(
        "route", reference.route, None, "topk_gate", "topk_gate",
        "float32 logits of up to 1,024 experts, at most 32 chosen",
    ),
    Operation("choose", reference.choose, None, "choose_best", None, "float32"),
    Operation("likeliest", torch.max, None, "choose_best", None, "float32"),
    Operation(
        "causal_attention", reference.attention, causal_attention, None, None,
        "never; PyTorch on a GPU: scaled_dot_product_attention",
    ),
    Operation(
        "latent_attention", reference.attention, causal_attention, "latent_attention", None, ALIKE
    ),
    Operation("rotate", reference.apply_rope, None, "rotate", None, f"{ALIKE}, float32 angles"),
    Operation("normalise", reference.rms_norm, None, "rms_norm", None, ALIKE),
    Operation("linear", reference.linear, None, "linear", None, f"{ALIKE}, 8 or more rows"),
    Operation("product", reference.linear, None, "few_rows", None, f"{ALIKE}, without gradients"),
    Operation("swiglu_product", reference.swiglu_product, None, "swiglu_product", None, ALIKE),
    Operation("cross_entropy", reference.cross_entropy, None, "cross_entropy", None, ALIKE),
    Operation(
        "decode", "the model's layers", None, "decode", None,
        "up to 16 tokens, float32 or bfloat16 weights, at most 1,024 experts and 32 chosen",
    ),
)  # fmt: skip


def describe(name: str = "moe_experts") -> str:
    """Say in one line which form of an operation runs here, on the CPU and on CUDA, and why.

    Raises: ValueError for an operation that is not in the table.
    """
    found = {operation.name: operation for operation in TABLE}.get(name)
    if found is None:
        raise ValueError(f"name={name!r}: one of {[op.name for op in TABLE]} expected")
    what = "experts" if name == "moe_experts" else name
    return compiled.describe(what, on_cpu=found.cpu is not None, on_cuda=found.cuda is not None)


def as_text() -> str:
    """Return the table as text, one line per operation."""
    lines = [("operation", "definition", "PyTorch", "CPU", "CUDA", "compiled when")]
    lines += [tuple(_cell(value) for value in row) for row in TABLE]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _cell(value: object) -> str:
    if isinstance(value, torch.library.CustomOpDef):
        return value._name
    return value if isinstance(value, str) else getattr(value, "__name__", "·")
