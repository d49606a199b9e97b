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
    """How often the tokens of each label chose each expert; counts of several texts add up."""

    choices: Int[Tensor, "layers labels experts"]
    tokens: Int[Tensor, "labels"]  # with that label
    top_k: int  # experts that each token chose

    def __add__(self, other: "LabelCounts") -> "LabelCounts":
        if self.choices.shape != other.choices.shape or self.top_k != other.top_k:
            raise ValueError(
                f"counts of {list(self.choices.shape)}, top {self.top_k}, do not add up with "
                f"{list(other.choices.shape)}, top {other.top_k}"
            )
        choices, tokens = self.choices + other.choices, self.tokens + other.tokens
        return LabelCounts(choices, tokens, self.top_k)

    @property
    def shares(self) -> Float[Tensor, "layers labels experts"]:
        """Specialisation: N_{i,D} / N_D, the share of a label's tokens that choose an expert.

        Rows sum to top_k. A label without tokens is NaN.
        """
        return self.choices / self.tokens[:, None]

    @property
    def chance(self) -> float:
        """The share that every expert has with every label when the router ignores the text: k/N.

        With uneven loads compare with `load`, the same for all labels together.
        """
        return self.top_k / self.choices.shape[-1]

    @property
    def load(self) -> Float[Tensor, "layers experts"]:
        """Share of all tokens that choose an expert: what each label would show if none mattered.

        A token has one label here, so tokens that were left out do not count.
        """
        return self.choices.sum(dim=1) / self.tokens.sum()

    @property
    def noise(self) -> Float[Tensor, "labels"]:
        """Noise floor: one standard error of a share at chance, √(p(1−p)/N_D), p = k/N.

        It takes tokens for independent. Neighbours in a text are not, so the true noise is
        larger: compare halves of the texts as well.
        """
        return torch.sqrt(self.chance * (1 - self.chance) / self.tokens)


def count_labels(
    expert_ids: Int[Tensor, "layers tokens top_k"],
    labels: Int[Tensor, "tokens"],
    n_labels: int,
    n_experts: int,
) -> LabelCounts:
    """Count choices by label; tokens labelled −1 are left out.

    Raises: ValueError for another number of labels than tokens, or a label of n_labels or above.
    """
    n_labels = whole("n_labels", n_labels, 1)
    labels = integers("labels", labels).to(integers("expert_ids", expert_ids).device)
    if len(labels) != expert_ids.shape[1]:
        raise ValueError(f"labels: one a token, {expert_ids.shape[1]}, expected, got {len(labels)}")
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

    Chance level k / N, noise floor √(p(1−p)/N_D): see `LabelCounts`. Shares are taken within
    a domain and a layer, so they sum to k over the experts. Normalising over layers or domains
    instead answers another question (and hides how large a domain is).
    Source: OLMoE, arXiv 2409.02060 §5.3, with all k choices of a token.
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

    `labels` are a trace's `tokens` (input), `targets` (what truly follows) or `predicted` (what
    the model expects). Tokens seen fewer than `at_least` times are NaN: one that occurs once
    has shares of 0 and 1, whatever the router does. Chance level k / N, or the expert's load;
    noise √(p(1−p)/N_x).
    Source: OLMoE, arXiv 2409.02060 §5.4.
    """
    at_least = whole("at_least", at_least, 0)
    counts = count_labels(expert_ids, labels, vocab_size, n_experts)
    return counts.shares.masked_fill((counts.tokens < at_least)[:, None], math.nan)
