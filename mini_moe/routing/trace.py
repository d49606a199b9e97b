"""Record every routing decision of a model for one text."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mini_moe.config import ModelConfig
from mini_moe.model import Routing, Transformer


@dataclass(frozen=True)
class RoutingTrace:
    """What the routers of all MoE layers saw and chose, token by token."""

    config: ModelConfig
    tokens: Int[Tensor, "tokens"]  # ids
    pieces: list[str]  # the tokens as readable text
    layers: tuple[int, ...]  # index in the model of each recorded layer
    scores: Float[Tensor, "layers tokens experts"]  # sigmoid or softmax of the router's logits
    choice_scores: Float[Tensor, "layers tokens experts"]  # + bias; −inf outside chosen groups
    expert_ids: Int[Tensor, "layers tokens top_k"]  # best choice first
    gates: Float[Tensor, "layers tokens top_k"]  # weight of each chosen expert
    logits: Float[Tensor, "tokens vocab"]  # of the token after each position

    @property
    def n_experts(self) -> int:
        """Routed experts a layer."""
        return self.scores.shape[-1]


def trace_routing(
    model: Transformer, text: str | list[int] | Int[Tensor, "seq"] | Int[Tensor, "batch seq"]
) -> RoutingTrace:
    """Run the model over a text and keep each layer's scores, choices and gates.

    The model computes what it would compute anyway: recording changes no bit of its result, nor
    whether it is training. A batch [batch, seq] is recorded as one line of tokens.

    Raises: ValueError for an empty text, a text without a tokenizer, a model without experts, or
    more tokens than the model accepts.
    """
    tokens = _to_batch(model, text)
    routings: list[Routing] = []
    with torch.no_grad():
        logits = model(tokens, routings=routings)
    if not routings:
        raise ValueError("model: a mixture of experts expected, this one has only dense layers")
    ids = tokens.reshape(-1)
    stacked = {
        name: torch.stack([getattr(routing, name) for routing in routings])
        for name in ("scores", "choice_scores", "expert_ids", "gates")
    }
    pieces = (
        model.tokenizer.pieces(ids.tolist()) if model.tokenizer else list(map(str, ids.tolist()))
    )
    layers = tuple(range(model.config.n_dense_layers, model.config.n_layers))
    return RoutingTrace(model.config, ids, pieces, layers, logits=logits.flatten(0, 1), **stacked)


def _to_batch(model: Transformer, text: str | list[int] | Tensor) -> Int[Tensor, "batch seq"]:
    if isinstance(text, str):
        if model.tokenizer is None:
            raise ValueError("text: this model has no tokenizer; pass token ids, or set one")
        text = model.tokenizer.encode(text)
    tokens = torch.as_tensor(text, device=model.embed_tokens.weight.device)
    if not tokens.numel():
        raise ValueError("text: at least one token expected, got an empty text")
    return tokens[None] if tokens.ndim == 1 else tokens
