"""The routed experts of one layer, with stacked weights."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mini_moe.config import ModelConfig
from mini_moe.ops import moe_experts


class Experts(nn.Module):
    """`n_routed_experts` SwiGLU networks; each token passes only through those chosen for it.

    `gate_up_proj[e, 0]` and `[e, 1]` are expert e's gate_proj and up_proj, so one
    matrix product computes both.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        experts, width, d_model = config.n_routed_experts, config.d_expert, config.d_model
        self.gate_up_proj = nn.Parameter(torch.empty(experts, 2, width, d_model))
        self.down_proj = nn.Parameter(torch.empty(experts, d_model, width))

    def forward(
        self,
        x: Float[Tensor, "tokens d_model"],
        expert_ids: Int[Tensor, "tokens top_k"],
        gates: Float[Tensor, "tokens top_k"],
    ) -> Float[Tensor, "tokens d_model"]:
        return moe_experts(x, expert_ids, gates, self.gate_up_proj, self.down_proj)
