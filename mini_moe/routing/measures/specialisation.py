"""Which tokens an expert works on: shares per label, where a label is a domain or a token."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mini_moe.arguments import integers, whole
from mini_moe.routing.measures.choices import chosen_by


@dataclass(frozen=True)
class LabelCounts:
    """How often the tokens of each label chose each expert; counts of texts can be added."""

    choices: Int[Tensor, "layers labels experts"]
    tokens: Int[Tensor, "labels"]  # number of tokens with that label
    top_k: int  # experts per token

    def __add__(self, other: "LabelCounts") -> "LabelCounts":
        if self.choices.shape != other.choices.shape or self.top_k != other.top_k:
            raise ValueError(
                f"counts {list(self.choices.shape)} with top_k={self.top_k} cannot be added to "
                f"{list(other.choices.shape)} with top_k={other.top_k}"
            )
        choices, tokens = self.choices + other.choices, self.tokens + other.tokens
        return LabelCounts(choices, tokens, self.top_k)

    @property
    def shares(self) -> Float[Tensor, "layers labels experts"]:
        """Specialisation: the share of a label's tokens that choose an expert, N_{i,D} / N_D.

        A label's shares sum to top_k; they are NaN if it has no tokens.
        """
        return self.choices / self.tokens[:, None]

    @property
    def chance(self) -> float:
        """The share of every expert for every label if the router ignores the text: k / N.

        If loads are uneven, compare with `load` instead: the same share over all labels.
        """
        return self.top_k / self.choices.shape[-1]

    @property
    def load(self) -> Float[Tensor, "layers experts"]:
        """Share of all tokens that choose an expert; each label has it if labels don't matter.

        Tokens left out because they have no label (−1) don't count.
        """
        return self.choices.sum(dim=1) / self.tokens.sum()

    @property
    def noise(self) -> Float[Tensor, "labels"]:
        """Noise floor: one standard error of a share at chance, √(p(1−p)/N_D), p = k/N.

        It treats tokens as independent. Neighbours in a text are not, so the true noise is
        larger: also compare one half of the texts with the other.
        """
        return torch.sqrt(self.chance * (1 - self.chance) / self.tokens)


def count_labels(
    expert_ids: Int[Tensor, "layers tokens top_k"],
    labels: Int[Tensor, "tokens"],
    n_labels: int,
    n_experts: int,
) -> LabelCounts:
    """Count choices by label; tokens labelled −1 are left out.

    Raises: ValueError unless there is one label per token, and for a label ≥ n_labels or < −1.
    """
    n_labels = whole("n_labels", n_labels, 1)
    labels = integers("labels", labels).to(integers("expert_ids", expert_ids).device)
    if len(labels) != expert_ids.shape[1]:
        raise ValueError(
            f"labels: one for each of {expert_ids.shape[1]} tokens expected, got {len(labels)}"
        )
    if len(labels) and not -1 <= int(labels.min()) <= int(labels.max()) < n_labels:
        raise ValueError(
            f"labels must lie in [-1, {n_labels}), got {int(labels.min())} to {int(labels.max())}"
        )
    chosen = chosen_by(expert_ids, n_experts)[:, labels >= 0].long()
    labels = labels[labels >= 0].long()
    empty = torch.zeros(len(expert_ids), n_labels, n_experts, dtype=torch.long)
    choices = empty.to(chosen.device).index_add(1, labels, chosen)
    return LabelCounts(choices, torch.bincount(labels, minlength=n_labels), expert_ids.shape[-1])


def domain_specialisation(
    expert_ids: Int[Tensor, "layers tokens top_k"],
    domains: Int[Tensor, "tokens"],
    n_domains: int,
    n_experts: int,
) -> Float[Tensor, "layers domains experts"]:
    """Share of a domain's tokens that choose an expert: N_{i,D} / N_D.

    Chance level k / N, noise floor √(p(1−p)/N_D): see `LabelCounts`. Shares are computed within
    one domain and one layer, so they sum to k over the experts. Normalising over layers or domains
    instead would answer a different question (and hide how large a domain is).
    Source: OLMoE, arXiv 2409.02060 §5.3, counting all k choices of a token.
    """
    return count_labels(expert_ids, domains, n_domains, n_experts).shares


def vocabulary_specialisation(
    expert_ids: Int[Tensor, "layers tokens top_k"],
    labels: Int[Tensor, "tokens"],
    vocab_size: int,
    n_experts: int,
    at_least: int = 10,
) -> Float[Tensor, "layers vocab experts"]:
    """Share of a token's occurrences that choose an expert: N_{x,i} / N_x.

    `labels` are a trace's `tokens` (the input), `targets` (the actual next token) or `predicted`
    (the token the model expects). Tokens seen fewer than `at_least` times give NaN: a token that
    occurs once has shares of 0 or 1 whatever the router does. Chance level k / N, or the expert's
    load; noise √(p(1−p)/N_x).
    Source: OLMoE, arXiv 2409.02060 §5.4.
    """
    at_least = whole("at_least", at_least, 0)
    counts = count_labels(expert_ids, labels, vocab_size, n_experts)
    return counts.shares.masked_fill((counts.tokens < at_least)[:, None], math.nan)
