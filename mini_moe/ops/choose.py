"""`choose` and `likeliest`: the largest values of each row; ties go to the lower index."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mini_moe.ops import compiled, reference
from mini_moe.ops.compiled import serves


def choose(values: Float[Tensor, "tokens n"], k: int) -> Int[Tensor, "tokens k"]:
    """`reference.choose`: indices of the k largest values; ties go to the lower index."""
    if values.dtype == torch.float32 and serves(values):
        return torch.ops.mini_moe.choose_best(values, k)
    return reference.choose(values, k)


def likeliest(
    logits: Float[Tensor, "rows vocab"],
) -> tuple[Float[Tensor, "rows"], Int[Tensor, "rows"]]:
    """Return the largest logit of each row (NaN if the row has one) and its index."""
    if logits.dtype != torch.float32 or not serves(logits):
        return tuple(logits.max(dim=-1))
    tokens = torch.ops.mini_moe.choose_best.default(logits, 1)
    return logits.gather(1, tokens)[:, 0], tokens[:, 0]


if not compiled.WHY_NOT:
    torch.library.register_fake(
        "mini_moe::choose_best",
        lambda values, k: values.new_empty(len(values), k, dtype=torch.long),
    )
