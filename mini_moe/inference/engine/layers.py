"""The parts of a layer as plain calls: norms, products, experts; compiled where possible."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from mini_moe.model.layers import RMSNorm, SwiGLU
from mini_moe.model.moe import MoE
from mini_moe.ops import compiled, moe_experts
from mini_moe.ops.topk_gate import MOST_CHOSEN, MOST_EXPERTS, gate_settings

THIN = 17  # rows from which on packing a matrix pays


def norm_of(norm: RMSNorm, wide: bool = False) -> Callable[[Tensor], Tensor]:
    """`RMSNorm` on rows [tokens, width], without its module's call; `wide`: at least fp32."""
    weight, shape, eps = norm.weight.detach(), norm.weight.shape, norm.eps
    out = at_least_fp32(weight.dtype) if wide else weight.dtype
    if compiled.serves(weight, weight) and hasattr(torch.ops.mini_moe, "rms_norm"):
        fused, narrow = torch.ops.mini_moe.rms_norm.default, out == torch.bfloat16
        return lambda x: fused(x, weight, eps, narrow)[0]
    return lambda x: torch.rms_norm(x, shape, weight.to(x.dtype), eps).to(out)


def at_least_fp32(dtype: torch.dtype) -> torch.dtype:
    """The type of sums over layers: rounding them to bfloat16 would cost more than products do."""
    return torch.promote_types(dtype, torch.float32)


class Product:
    """x [rows, in] times weight [out, in] transposed, by compiled kernels where there are some.

    Few rows: the weight is read once, where it lies. From `THIN` rows on it is packed first.
    `wide`: the result is at least fp32, as the head's has to be.
    """

    def __init__(self, weight: Tensor, wide: bool = False) -> None:
        self.weight = weight.detach().contiguous()
        self.out = at_least_fp32(weight.dtype) if wide else weight.dtype
        some = weight.dtype in (torch.float32, torch.bfloat16)
        self.compiled = some and compiled.serves(weight)

    def __call__(self, x: Tensor) -> Tensor:
        if not self.compiled:
            return F.linear(x.to(self.weight.dtype), self.weight).to(self.out)
        if len(x) < THIN:
            return torch.ops.mini_moe.few_rows.default(x.float(), self.weight).to(self.out)
        return torch.ops.mini_moe.linear.default(x, self.weight, self.out == torch.bfloat16)


class MixtureStep:
    """Router, chosen experts and shared experts, added to what came in."""

    def __init__(self, mixture: MoE) -> None:
        self.gate, config = mixture.gate, mixture.gate.config
        self.shared = SwiGLUStep(mixture.shared_experts) if mixture.shared_experts else None
        self.gate_up = mixture.experts.gate_up_proj.detach()
        self.down = mixture.experts.down_proj.detach()
        self.router, self.bias = self.gate.weight.detach(), self.gate.e_score_correction_bias
        self.settings = gate_settings(config)
        small = config.top_k <= MOST_CHOSEN and config.n_routed_experts <= MOST_EXPERTS
        exact = self.router.dtype == self.down.dtype == torch.float32
        self.compiled = small and exact and compiled.serves(self.router, self.router)

    def __call__(self, x: Tensor, normed: Tensor) -> Tensor:
        if self.compiled:
            ops, logits = torch.ops.mini_moe, F.linear(normed, self.router)
            gates, ids, _ = ops.topk_gate.default(logits, self.bias, *self.settings)
            mixed, _ = ops.experts_forward.default(
                normed, ids, gates, self.gate_up, self.down, False
            )
        else:
            routing = self.gate(normed)
            mixed = moe_experts(normed, routing.expert_ids, routing.gates, self.gate_up, self.down)
        mixed = x + mixed
        return mixed if self.shared is None else self.shared(mixed, normed)


class SwiGLUStep:
    """A feed-forward network, added to what came in."""

    def __init__(self, network: SwiGLU) -> None:
        self.both = Product(torch.cat((network.gate_proj.weight, network.up_proj.weight)))
        self.down = Product(network.down_proj.weight)

    def __call__(self, x: Tensor, normed: Tensor) -> Tensor:
        gate, up = self.both(normed).chunk(2, dim=-1)
        return x + self.down(F.silu(gate).mul_(up))
