"""The parts of a layer as plain calls: norms, products, experts; compiled where possible."""

from collections.abc import Callable
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from mini_moe.model.layers import RMSNorm, SwiGLU
from mini_moe.model.moe import MoE
from mini_moe.ops import compiled, moe_experts

SMALL = 2**14  # numbers of a matrix below which a second thread does not pay
THIN = 6  # rows below which torch's product is faster than the compiled one, which packs the matrix


def norm_of(norm: RMSNorm) -> Callable[[Tensor], Tensor]:
    """`RMSNorm` on rows [tokens, width], without its module's call."""
    weight, shape, eps = norm.weight.detach(), norm.weight.shape, norm.eps
    if compiled.serves(weight, weight) and hasattr(torch.ops.mini_moe, "rms_norm"):
        fused, narrow = torch.ops.mini_moe.rms_norm.default, weight.dtype == torch.bfloat16
        return lambda x: fused(x, weight, eps, narrow)[0]
    return lambda x: torch.rms_norm(x, shape, weight, eps)


class Product:
    """x [rows, in] times weight [out, in] transposed.

    Few rows: torch's product, which leaves them to one thread; so the outputs are divided into
    parts, one a thread, and multiplied as a batch. From `THIN` rows on the compiled product of the
    experts is faster, which packs the matrix first: one expert, all rows.
    """

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight.detach().contiguous()
        self.turned, self.stack = self.weight.t(), self.weight[None]
        self.compiled = weight.dtype == torch.float32 and compiled.serves(weight, weight)
        n_out, threads = len(weight), torch.get_num_threads()
        large = weight.device.type == "cpu" and weight.numel() >= SMALL
        self.parts = threads if large and n_out % threads == 0 else 1
        self.divided = self.weight.unflatten(0, (self.parts, -1)).transpose(1, 2)

    def __call__(self, x: Tensor) -> Tensor:
        rows = x.shape[0]
        if self.compiled and rows >= THIN:
            return torch.ops.mini_moe.grouped_gemm.default(x, all_rows(rows), self.stack, True)
        if self.parts == 1 or rows >= THIN:
            return F.linear(x, self.weight)
        made = torch.bmm(x.expand(self.parts, rows, -1), self.divided)
        return made.view(1, -1) if rows == 1 else made.transpose(0, 1).reshape(rows, -1)

    def onto(self, base: Tensor, x: Tensor) -> Tensor:
        """The product added to `base`."""
        if x.shape[0] == 1 and self.parts > 1:
            lines = base.view(self.parts, 1, -1)
            return torch.baddbmm(lines, x.expand(self.parts, 1, -1), self.divided).view(1, -1)
        if x.shape[0] < THIN and self.parts == 1:
            return torch.addmm(base, x, self.turned)
        return self(x).add_(base)


@lru_cache(maxsize=256)
def all_rows(rows: int) -> Tensor:
    """Offsets of one group that holds all rows."""
    return torch.tensor([0, rows])


class MixtureStep:
    """Router, chosen experts and shared experts, added to what came in."""

    def __init__(self, mixture: MoE) -> None:
        self.gate, config = mixture.gate, mixture.gate.config
        self.shared = SwiGLUStep(mixture.shared_experts) if mixture.shared_experts else None
        self.gate_up = mixture.experts.gate_up_proj.detach()
        self.down = mixture.experts.down_proj.detach()
        self.router, self.bias = self.gate.weight.detach(), self.gate.e_score_correction_bias
        self.settings = (
            *(config.top_k, config.n_expert_groups, config.top_k_groups),
            *(config.group_score == "top2_sum", config.score_function == "softmax"),
            *(config.norm_topk_prob, config.route_scale),
        )
        small = config.top_k <= 32 and config.n_routed_experts <= 1024
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
        mixed = mixed.add_(x)
        return mixed if self.shared is None else self.shared(mixed, normed)


class SwiGLUStep:
    """A feed-forward network, added to what came in."""

    def __init__(self, network: SwiGLU) -> None:
        self.both = Product(torch.cat((network.gate_proj.weight, network.up_proj.weight)))
        self.down = Product(network.down_proj.weight)

    def __call__(self, x: Tensor, normed: Tensor) -> Tensor:
        gate, up = self.both(normed).chunk(2, dim=-1)
        return self.down.onto(x, F.silu(gate).mul_(up))
