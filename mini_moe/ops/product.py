"""`product`: rows times a weight, for passes that need no gradient."""

from functools import lru_cache

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mini_moe.ops import compiled
from mini_moe.ops.compiled import serves

THIN = 17  # from this many rows on, packing the weight pays off


def product(
    x: Float[Tensor, "rows d_in"], weight: Float[Tensor, "d_out d_in"]
) -> Float[Tensor, "rows d_out"]:
    """x weightᵀ, without a gradient.

    The compiled fp32 form reads the weight once, in place, for few rows; from `THIN` rows on it
    packs the weight first, as if it were one expert that receives all rows.
    """
    if weight.dtype != torch.float32 or not serves(x, weight):
        return F.linear(x, weight)
    if len(x) < THIN:
        return torch.ops.mini_moe.few_rows.default(x, weight)
    return torch.ops.mini_moe.grouped_gemm.default(x, _all_rows(len(x)), weight[None], True)


@lru_cache(maxsize=256)
def _all_rows(rows: int) -> Tensor:
    """Return the offsets of a single group that holds all rows."""
    return torch.tensor([0, rows])


if not compiled.WHY_NOT:
    torch.library.register_fake("mini_moe::few_rows", lambda x, w: x.new_empty(len(x), len(w)))
