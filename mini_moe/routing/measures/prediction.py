"""How well a token's experts can be told from labels alone, without looking at the model."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mini_moe.arguments import integers, refused
from mini_moe.routing.measures.choices import chosen_by


def predictability(
    expert_ids: Int[Tensor, "layers tokens top_k"],
    levels: Sequence[Int[Tensor, "tokens"]],
    learn: Bool[Tensor, "tokens"],
    n_experts: int,
) -> Float[Tensor, "layers"]:
    """Share of a token's experts that a table guesses from its labels, on tokens it did not see.

    1. On the tokens marked `learn`, how often does each label choose each expert?
    2. For the other tokens guess the k experts most often chosen by tokens of their label.
    3. Compare with what they chose: mean |guessed ∩ chosen| / k.

    `levels` are labels from coarse to fine, such as the token and then the pair (token, domain);
    each level's shares are drawn towards those of the level before with the weight of one token,
    so that rare labels fall back. No level at all guesses by load.
    Chance level k / N; what the load alone reaches is the honest floor. Learn and test on
    different documents, or the noise is hidden.
    Raises: ValueError where nothing is left to learn from or to test on.
    """
    n_tokens, device = integers("expert_ids", expert_ids).shape[1], expert_ids.device
    if not isinstance(learn, Tensor) or learn.dtype != torch.bool or learn.shape != (n_tokens,):
        raise refused("learn", learn, f"True or False for each of {n_tokens} tokens")
    learn = learn.to(device)
    if not 0 < int(learn.sum()) < n_tokens:
        raise ValueError(f"learn: some of {n_tokens} tokens expected, got {int(learn.sum())}")
    chosen = chosen_by(expert_ids, n_experts).float()
    expected = chosen[:, learn].mean(dim=1, keepdim=True).expand(-1, n_tokens, -1)
    for labels in levels:
        labels = integers("levels", labels).to(device)
        expected = _refined(expected, chosen, labels, learn)
    guessed = expected[:, ~learn].topk(expert_ids.shape[-1], dim=-1).indices
    return chosen[:, ~learn].gather(-1, guessed).mean(dim=(1, 2))


def _refined(expected: Tensor, chosen: Tensor, labels: Tensor, learn: Tensor) -> Tensor:
    """Each token's shares by its label, drawn towards what was expected of that token before."""
    names, places = labels.unique(return_inverse=True)
    sums = chosen.new_zeros(len(chosen), len(names), chosen.shape[-1])
    sums = sums.index_add(1, places[learn], chosen[:, learn])
    seen = torch.bincount(places[learn], minlength=len(names)).to(chosen)
    return (sums[:, places] + expected) / (seen[places] + 1)[:, None]
