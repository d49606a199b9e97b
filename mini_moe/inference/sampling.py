"""From logits to a token: which tokens may be drawn, and how likely each of them is."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mini_moe.arguments import number, whole
from mini_moe.ops import likeliest


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a token is drawn. Filters apply in this order, each to what the previous one left.

    Raises: ValueError that names the setting, what was expected and what it got.
    """

    temperature: float = 0.8  # divides the logits; 0 always takes the likeliest token
    top_k: int | None = None  # keep the k likeliest tokens; None: all
    top_p: float = 0.95  # keep the likeliest tokens that together reach this probability; 1: all
    min_p: float = 0.0  # keep tokens at least this likely, as a share of the likeliest one
    repetition_penalty: float = 1.0  # above 1, tokens that were read or written are less likely

    def __post_init__(self) -> None:
        penalty = self.repetition_penalty
        checked = {
            "temperature": number("temperature", self.temperature, least=0),
            "top_k": None if self.top_k is None else whole("top_k", self.top_k, 1),
            "top_p": number("top_p", self.top_p, above=0, most=1),
            "min_p": number("min_p", self.min_p, least=0, most=1),
            "repetition_penalty": number("repetition_penalty", penalty, above=0),
        }
        for name, value in checked.items():  # as plain Python numbers
            object.__setattr__(self, name, value)

    @property
    def is_argmax(self) -> bool:
        """Whether the next token is always the likeliest one, whatever came before."""
        return self.temperature == 0 and self.repetition_penalty == 1


def greedy_tokens(logits: Float[Tensor, "batch vocab"]) -> list[int]:
    """Return each sequence's likeliest token. Raises: ValueError as `next_token` does."""
    best, tokens = likeliest(logits)
    for value in best.tolist():
        check_finite(value)
    return tokens.tolist()


def next_token(
    logits: Float[Tensor, "vocab"],
    sampling: Sampling,
    generator: torch.Generator | None = None,
    seen: Sequence[int] = (),
) -> int:
    """Draw one token from logits; the repetition penalty applies to the tokens in `seen`.

    Raises: ValueError if the largest logit is NaN or infinite, so no token can be chosen.
    """
    logits = penalised(logits, sampling, seen)
    best, token = logits.max(dim=-1)
    check_finite(best.item())
    if sampling.temperature == 0:
        return token.item()
    ranked, order = ranked_probabilities(logits.float() - best.float(), sampling)
    return order[torch.multinomial(ranked, 1, generator=generator)].item()


def next_probabilities(
    logits: Float[Tensor, "vocab"], sampling: Sampling, seen: Sequence[int] = ()
) -> Float[Tensor, "vocab"]:
    """Return the distribution that `next_token` draws from; one-hot if greedy."""
    logits = penalised(logits, sampling, seen)
    best, token = logits.max(dim=-1)
    check_finite(best.item())
    if sampling.temperature == 0:
        return torch.zeros_like(logits, dtype=torch.float32).index_fill_(0, token, 1.0)
    ranked, order = ranked_probabilities(logits.float() - best.float(), sampling)
    return torch.zeros_like(ranked).scatter_(0, order, ranked / ranked.sum())


def ranked_probabilities(
    logits: Float[Tensor, "*batch vocab"], sampling: Sampling
) -> tuple[Float[Tensor, "*batch vocab"], Int[Tensor, "*batch vocab"]]:
    """Return probabilities, likeliest first, and their token ids.

    Probabilities that were filtered out are 0, and the rest are not renormalised. `logits` must be
    shifted so that the largest is 0, which makes any temperature above 0 safe.
    Source: top-k, Fan et al., arXiv 1805.04833; top-p, Holtzman et al., arXiv 1904.09751 §3.1;
    min-p, Nguyen et al., arXiv 2407.01082.
    """
    probabilities = (logits.float() / sampling.temperature).softmax(dim=-1)
    ranked, order = probabilities.sort(dim=-1, descending=True)
    if sampling.top_k is not None:
        ranked[..., sampling.top_k :] = 0
    if sampling.top_p < 1:
        before = ranked.cumsum(dim=-1) - ranked
        left = 1.0 if sampling.top_k is None else ranked.sum(dim=-1, keepdim=True)
        ranked.masked_fill_(before >= sampling.top_p * left, 0)
    if sampling.min_p:
        ranked.masked_fill_(ranked < sampling.min_p * ranked[..., :1], 0)
    return ranked, order


def penalised(logits: Tensor, sampling: Sampling, seen: Sequence[int]) -> Tensor:
    """Divide the logits of seen tokens by the penalty if positive, multiply them by it if not.

    Source: Keskar et al. (CTRL), arXiv 1909.05858, which always divides; negative logits are
    treated as in transformers, so that a penalty above 1 always makes a token less likely.
    """
    if sampling.repetition_penalty == 1 or not len(seen):
        return logits
    ids = torch.tensor(sorted(set(seen)), device=logits.device)
    ids = ids[ids < len(logits)]
    before = logits[ids]
    penalty = sampling.repetition_penalty
    return logits.index_copy(0, ids, torch.where(before > 0, before / penalty, before * penalty))


def check_finite(best: float) -> None:
    """Raise ValueError if the largest logit is NaN or infinite: then no token can be chosen."""
    if not math.isfinite(best):
        raise ValueError(f"logits: a finite maximum expected, got {best}")


def log_probability(logits: Float[Tensor, "vocab"], token: int) -> float:
    """Return ln softmax(logits)[token], the model's own value, before temperature and filters."""
    return logits.float().log_softmax(dim=-1)[token].item()


def sample_token(
    logits: Float[Tensor, "batch vocab"],
    temperature: float,
    top_p: float,
    generator: torch.Generator | None = None,
) -> Int[Tensor, "batch 1"]:
    """Draw from softmax(logits / temperature), limited to the likeliest tokens that reach top_p.

    Source: nucleus sampling, Holtzman et al., arXiv 1904.09751 §3.1.
    """
    sampling = Sampling(temperature=temperature, top_p=top_p)
    if sampling.temperature == 0:
        return logits.argmax(dim=-1, keepdim=True)
    below_best = logits.float() - logits.float().amax(dim=-1, keepdim=True)
    ranked, order = ranked_probabilities(below_best, sampling)
    return order.gather(-1, torch.multinomial(ranked, 1, generator=generator))
