"""A mixture-of-experts layer: router, routed experts and shared experts."""

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from mini_moe.config import ModelConfig
from mini_moe.model.experts import Experts
from mini_moe.model.layers import SwiGLU
from mini_moe.model.router import Router, Routing


class MoE(nn.Module):
    """Σ over chosen experts of gate · expert(x), plus the shared experts of x.

    The shared experts form one SwiGLU that is `n_shared_experts` times as wide, which equals the
    sum of separate ones. Source: DeepSeek-V3, arXiv 2412.19437 §2.1.2, equation 12.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate = Router(config)
        self.experts = Experts(config)
        self.shared_experts = None
        if config.n_shared_experts:
            self.shared_experts = SwiGLU(config.d_model, config.n_shared_experts * config.d_expert)

    def forward(
        self, x: Float[Tensor, "batch seq d_model"], routings: list[Routing] | None = None
    ) -> Float[Tensor, "batch seq d_model"]:
        tokens = rearrange(x, "batch seq d -> (batch seq) d")
        routing = self.gate(tokens)
        if routings is not None:
            routings.append(routing)
        mixed = self.experts(tokens, routing.expert_ids, routing.gates)
        mixed = rearrange(mixed, "(batch seq) d -> batch seq d", batch=len(x))
        return mixed if self.shared_experts is None else mixed + self.shared_experts(x)
