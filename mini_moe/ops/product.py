"""`product`: rows times a weight, for passes that need no gradient."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mini_moe.ops import compiled
from mini_moe.ops.compiled import serves
from mini_moe.ops.registration import no_gradient

THIN = 17  # from this many rows on, packing the weight pays off


def product(
    x: Float[Tensor, "rows d_in"],
    weight: Float[Tensor, "d_out d_in"],
    dtype: torch.dtype | None = None,
) -> Float[Tensor, "rows d_out"]:
    """x weightᵀ in `dtype`, by default that of the weight, without a gradient.

    For few rows, the compiled form reads the weight once, in place; from `THIN` rows on it packs
    the weight first.
    """
    dtype = dtype or weight.dtype
    if not (serves(x, weight) and dtype in compiled.DTYPES):
        return F.linear(x.to(weight.dtype), weight).to(dtype)
    if len(x) < THIN:
        return torch.ops.mini_moe.few_rows.default(x.float(), weight).to(dtype)
    return torch.ops.mini_moe.linear.default(x, weight, dtype == torch.bfloat16)


if not compiled.WHY_NOT:
    torch.library.register_fake(
        "mini_moe::few_rows", lambda x, w: x.new_empty(len(x), len(w), dtype=torch.float32)
    )
    torch.library.register_autograd("mini_moe::few_rows", no_gradient)
