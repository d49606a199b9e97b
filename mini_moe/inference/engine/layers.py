"""The parts of a layer as plain calls on [tokens, width], without modules or gradients."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from mini_moe.model.layers import RMSNorm, SwiGLU
from mini_moe.model.moe import MoE
from mini_moe.ops import moe_experts, normalise, product, route


def norm_of(norm: RMSNorm, wide: bool = False) -> Callable[[Tensor], Tensor]:
    """Return `RMSNorm` without a module call; `wide`: at least fp32, not the weight's dtype."""
    weight, eps = norm.weight.detach(), norm.eps
    out = at_least_fp32(weight.dtype) if wide else weight.dtype
    return lambda x: normalise(x, weight, eps, out)


def at_least_fp32(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype for sums over layers; rounding these to bfloat16 loses most accuracy."""
    return torch.promote_types(dtype, torch.float32)


class Product:
    """x [tokens, in] times a weight [out, in], transposed; at least fp32 if `wide`."""

    def __init__(self, weight: Tensor, wide: bool = False) -> None:
        self.weight = weight.detach().contiguous()
        self.out = at_least_fp32(weight.dtype) if wide else weight.dtype

    def __call__(self, x: Tensor) -> Tensor:
        return product(x, self.weight, self.out)


class MixtureStep:
    """Router, chosen experts and shared experts, added to the layer's input (the residual)."""

    def __init__(self, mixture: MoE) -> None:
        self.config, self.bias = mixture.gate.config, mixture.gate.e_score_correction_bias
        self.router = mixture.gate.weight.detach()
        self.wide = at_least_fp32(self.router.dtype)
        self.shared = SwiGLUStep(mixture.shared_experts) if mixture.shared_experts else None
        self.gate_up = mixture.experts.gate_up_proj.detach()
        self.down = mixture.experts.down_proj.detach()

    def __call__(self, x: Tensor, normed: Tensor) -> Tensor:
        logits = F.linear(normed.to(self.wide), self.router.to(self.wide))
        routing = route(logits, self.bias, self.config)
        mixed = moe_experts(normed, routing.expert_ids, routing.gates, self.gate_up, self.down)
        mixed = x + mixed  # x may be wider
        return mixed if self.shared is None else self.shared(mixed, normed)


class SwiGLUStep:
    """A feed-forward network, added to its input before the norm (the residual)."""

    def __init__(self, network: SwiGLU) -> None:
        self.both = Product(torch.cat((network.gate_proj.weight, network.up_proj.weight)))
        self.down = Product(network.down_proj.weight)

    def __call__(self, x: Tensor, normed: Tensor) -> Tensor:
        gate, up = self.both(normed).chunk(2, dim=-1)
        return x + self.down(F.silu(gate).mul_(up))
