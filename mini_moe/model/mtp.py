"""Multi-token prediction: an extra block that predicts one token further ahead."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mini_moe.config import ModelConfig
from mini_moe.model.layers import Linear, RMSNorm


class MultiTokenPrediction(nn.Module):
    """Combine the hidden vector at position i with the true token i + 1 to predict token i + 2.

    block(W [RMSNorm(embedding of token i + 1) ; RMSNorm(hidden at i)]), normalised for the head.
    The head and the embedding are shared with the main model. The order inside the brackets is that
    of the published weights; equation 21 has it the other way round.
    Source: DeepSeek-V3, arXiv 2412.19437 §2.2, equations 21–23.
    """

    def __init__(self, config: ModelConfig, block: nn.Module) -> None:
        super().__init__()
        self.enorm = RMSNorm(config.d_model, config.norm_eps)
        self.hnorm = RMSNorm(config.d_model, config.norm_eps)
        self.eh_proj = Linear(2 * config.d_model, config.d_model)
        self.block = block
        self.norm = RMSNorm(config.d_model, config.norm_eps)

    def forward(
        self,
        hidden: Float[Tensor, "batch seq d_model"],
        embedded: Float[Tensor, "batch seq d_model"],
        rotation: Float[Tensor, "seq pairs 2"],
        routings: list | None = None,
    ) -> Float[Tensor, "batch seq d_model"]:
        joined = torch.cat((self.enorm(embedded), self.hnorm(hidden)), dim=-1)
        return self.norm(self.block(self.eh_proj(joined), rotation, None, routings))
