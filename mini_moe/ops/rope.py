"""`mini_moe::rotate`: rotary position embedding of the last channels of every head."""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from mini_moe.ops import compiled
from mini_moe.ops.compiled import serves
from mini_moe.ops.reference import apply_rope


def rotate(
    x: Float[Tensor, "batch seq heads width"], rotation: Float[Tensor, "seq pairs 2"]
) -> Float[Tensor, "batch seq heads width"]:
    """`apply_rope` on the last 2 · pairs channels of every head; the others don't change."""
    if serves(x, rotation) and rotation.dtype == torch.float32:
        return torch.ops.mini_moe.rotate(x, rotation, False)
    turned = 2 * rotation.shape[1]
    still, rope = x.split([x.shape[-1] - turned, turned], dim=-1)
    rope = apply_rope(rearrange(rope, "batch seq heads d -> batch heads seq d"), rotation)
    rope = rearrange(rope, "batch heads seq d -> batch seq heads d")
    return torch.cat((still, rope), dim=-1)


def _save(ctx, inputs, output) -> None:
    _, ctx.rotation, ctx.back = inputs


def _differentiate(ctx, grad):
    """Rotate the gradient in the opposite direction."""
    return torch.ops.mini_moe.rotate(grad, ctx.rotation, not ctx.back), None, None


if not compiled.WHY_NOT:
    torch.library.register_fake("mini_moe::rotate", lambda x, rotation, back: x.new_empty(x.shape))
    torch.library.register_autograd("mini_moe::rotate", _differentiate, setup_context=_save)
