"""How well labels alone predict a token's experts, without looking at the model."""

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
    """Share of a token's experts that a lookup table guesses from its labels, on unseen tokens.

    1. On the tokens marked `learn`, count how often each label chooses each expert.
    2. For each other token, guess the k experts chosen most often by tokens with its label.
    3. Compare with what it chose: mean |guessed ∩ chosen| / k.

    `levels` are labels from coarse to fine, such as the token, then the pair (token, domain).
    Each level's shares are shrunk towards the previous level's with the weight of one token, so
    rare labels fall back on the coarser level. Without any level, the guess is the load.
    Chance level k / N; the fair baseline is what the load alone achieves. Learn and test on
    different documents, otherwise the result looks less noisy than it is.
    Raises: ValueError if no tokens are left to learn from or to test on.
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
    """Return each token's shares by its label, shrunk towards those of the previous level."""
    names, places = labels.unique(return_inverse=True)
    sums = chosen.new_zeros(len(chosen), len(names), chosen.shape[-1])
    sums = sums.index_add(1, places[learn], chosen[:, learn])
    seen = torch.bincount(places[learn], minlength=len(names)).to(chosen)
    return (sums[:, places] + expected) / (seen[places] + 1)[:, None]
