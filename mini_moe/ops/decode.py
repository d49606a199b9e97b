"""`mini_moe::decode`: run a few tokens through all layers in one call.

For a single token, each of dozens of operations does little arithmetic, and calling them takes
longer than the arithmetic. With the compiled library, the whole pass is one operation.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from mini_moe.config import ModelConfig
from mini_moe.ops import compiled
from mini_moe.ops.gate import MOST_CHOSEN, MOST_EXPERTS, gate_settings

# A layer's tensors in the operation's order; missing ones are empty. FLOATS are always fp32.
TENSORS = (
    *("input_norm", "query_a", "query_norm", "query", "keep", "latent_norm", "up", "out"),
    *("post_norm", "gate_proj", "up_proj", "down_proj"),
    *("router", "bias", "gate_up_proj", "experts_down_proj"),
)
FLOATS = ("input_norm", "query_norm", "latent_norm", "post_norm", "router", "bias")


def serves(config: ModelConfig, layers: Sequence[dict[str, Tensor]], x: Tensor) -> bool:
    """Return whether `decode` accepts these layers with embedded tokens like `x`."""
    small = config.n_routed_experts <= MOST_EXPERTS and config.top_k <= MOST_CHOSEN
    matrices = [t for layer in layers for name, t in layer.items() if name not in FLOATS]
    same = all(t.dtype == x.dtype and t.device == x.device for t in matrices)
    return small and same and compiled.serves(x)


def flat(layers: Sequence[dict[str, Tensor]]) -> list[Tensor]:
    """Return the tensors of all layers as one list, in the operation's order and dtypes."""
    nothing, found = next(iter(layers[0].values())).new_empty(0), []
    for layer in layers:
        for name in TENSORS:
            tensor = layer.get(name, nothing).detach().contiguous()
            found.append(tensor.float() if name in FLOATS else tensor)
    return found


def decode(
    x: Float[Tensor, "batch new d_model"],
    numbers: Float[Tensor, "layers rows capacity width"],
    lengths: list[int],
    rotation: Float[Tensor, "positions pairs 2"],
    layers: list[Tensor],
    norm: Float[Tensor, "d_model"],
    settings: tuple,
) -> Float[Tensor, "batch new d_model"]:
    """Run embedded tokens through the layers and the final norm in fp32, and extend the cache.

    Row b of the cache `numbers` holds lengths[b] positions; each layer writes the new ones after
    them and attends to latents. `settings` come from `settings_of`.

    Raises: ValueError naming the argument that does not fit, before the cache is touched.
    """
    with compiled.named_errors():
        return torch.ops.mini_moe.decode.default(
            x, numbers, lengths, rotation, layers, norm, *settings
        )


def settings_of(config: ModelConfig, scale: float) -> tuple:
    """Return the non-tensor arguments of `decode`; `scale` multiplies the softmax's scores."""
    return (
        *(config.n_heads, config.v_head_dim, scale, config.norm_eps, config.latent_norm_eps),
        *gate_settings(config),
    )


if not compiled.WHY_NOT:
    torch.library.register_fake(
        "mini_moe::decode",
        lambda x, numbers, lengths, *rest: x.new_empty(x.shape, dtype=torch.float32),
    )
