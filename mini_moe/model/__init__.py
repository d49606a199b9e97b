"""The transformer, one module per part as in the paper: attention, router, experts, blocks, MTP."""

from mini_moe.model.router import Routing
from mini_moe.model.transformer import Transformer

__all__ = ["Routing", "Transformer"]
