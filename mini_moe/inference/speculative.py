"""Speculative decoding: the MTP module proposes tokens, one pass of the model judges them all.

The text is that of ordinary decoding: token for token if greedy, in distribution if sampled. Only
the number of passes changes.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mini_moe.arguments import whole
from mini_moe.inference.cache import LatentCache
from mini_moe.inference.engine.decoder import CHUNK, Decoder, Stack
from mini_moe.inference.engine.layers import Product, norm_of
from mini_moe.inference.rows import Generation, Prompt, Row, make_rows
from mini_moe.inference.sampling import (
    Sampling,
    greedy_tokens,
    log_probability,
    next_probabilities,
    next_token,
)
from mini_moe.model import Transformer


class Round(NamedTuple):
    """One pass of the model: what was proposed, how much of it stood, and what it added itself."""

    proposed: list[int]  # tokens of the MTP module, in order
    accepted: int  # how many of them, from the first on, stand
    added: int  # the model's own token after those


@dataclass
class Speculation:
    """What speculative decoding did, pass by pass; the token after the prompt is not among it."""

    rounds: list[Round] = field(default_factory=list)

    @property
    def acceptance(self) -> float:
        """Accepted tokens as a share of those proposed; NaN where none was."""
        proposed = sum(len(one.proposed) for one in self.rounds)
        return sum(one.accepted for one in self.rounds) / proposed if proposed else float("nan")

    @property
    def tokens_per_pass(self) -> float:
        """Tokens that one pass of the model yields; 1 without speculation."""
        tokens = sum(one.accepted + 1 for one in self.rounds)
        return tokens / len(self.rounds) if self.rounds else float("nan")


def speculate(
    model: Transformer,
    prompt: Prompt,
    max_new_tokens: int = 100,
    *,
    ahead: int = 1,
    sampling: Sampling | None = None,
    seed: int | None = None,
    stop_token: int | Collection[int] | None = None,
    stop: str | Sequence[str] | None = None,
    log_probabilities: bool = False,
) -> tuple[Generation, Speculation]:
    """`complete` for one prompt with `ahead` proposed tokens a pass, and how they fared.

    Raises: ValueError for a model without an MTP module, and as `generate` does.
    """
    row = make_rows(
        model, [prompt], max_new_tokens, sampling, seed, stop_token, stop, log_probabilities
    )[0]
    told = Speculation()
    for _ in write_ahead(Drafter(Decoder(model), ahead), row, told):
        pass
    return row.generation(), told


def write_ahead(drafter: "Drafter", row: Row, told: Speculation) -> Iterator[None]:
    """Write on from a row's prompt with proposals in every pass; yields after every token.

    Each round: 1. the MTP module proposes tokens after the last one written; 2. the model reads
    that one and all proposals in one pass; 3. `judge` says how many stand and adds a token;
    4. both caches forget the rest.
    Source: DeepSeek-V3, arXiv 2412.19437 §2.2 and §5.4.3; Leviathan et al., arXiv 2211.17192.
    """
    if row.ended:
        return
    decoder = drafter.decoder
    capacity = len(row.prompt) + row.limit - 1
    cache = LatentCache(decoder.model, 1, capacity)
    drafter.cache = LatentCache(decoder.model, 1, capacity, n_layers=1)
    hidden = decoder.read_all(row.prompt, cache)
    row.take(decoder.logits(hidden[0, -1]))
    yield
    follow = row.prompt[1:] + row.tokens  # the token after each position of `hidden`
    while not row.ended:
        room = min(drafter.ahead, row.limit - len(row.tokens) - 1)
        proposed, likely = drafter.propose(hidden, follow, room, row)
        before = cache.lengths[0]
        hidden = decoder.read(decoder.as_tokens([[row.tokens[-1], *proposed]]), cache)
        logits = decoder.logits(hidden[0])
        accepted, added = judge(row, logits, proposed, likely)
        told.rounds.append(Round(proposed, accepted, added))
        cache.lengths = [before + accepted + 1]
        hidden, follow = hidden[:, : accepted + 1], [*proposed[:accepted], added]
        for token, own in zip(follow, logits, strict=False):
            row.add(token, log_probability(own[: row.readable], token) if row.measured else None)
            yield
            if row.ended:
                return


class Drafter:
    """The first MTP module as a decoder of its own: it proposes tokens, one after the other.

    From the model's vector at position i and the token at i + 1 it predicts token i + 2. To go
    further, its own output takes the place of the model's vector. Its cache holds what it made of
    the model's vectors only; its own guesses are forgotten after each round.

    Raises: ValueError where `ahead` is below 1 or the model has no MTP module.
    """

    @torch.inference_mode()
    def __init__(self, decoder: Decoder, ahead: int) -> None:
        ahead = whole("ahead", ahead, 1)
        if not decoder.model.mtp:
            raise ValueError(
                f"ahead={ahead}: an MTP module expected, but this model has n_mtp_layers=0; "
                "`python -m mini_moe.training.add_mtp` adds one"
            )
        self.decoder, self.ahead, module = decoder, ahead, decoder.model.mtp[0]
        self.stack = Stack([module.block], module.norm, decoder.rotation)
        self.norms = norm_of(module.enorm), norm_of(module.hnorm)
        self.join = Product(module.eh_proj.weight)
        self.cache: LatentCache | None = None

    @torch.inference_mode()
    def propose(
        self, hidden: Tensor, follow: list[int], ahead: int, row: Row
    ) -> tuple[list[int], list[Tensor]]:
        """`ahead` tokens after those of `follow`, and the distribution that each was drawn from.

        `hidden` [1, new, d_model] are vectors of the model that the module has not read yet,
        `follow` the token after each. Greedy proposals have no distributions.
        """
        proposed, likely = [], []
        if not ahead:
            return proposed, likely
        decoder, greedy = self.decoder, row.sampling.temperature == 0
        seen = row.seen()
        vector = self.read_all(hidden, follow)
        known = self.cache.lengths
        for _ in range(ahead):
            logits = decoder.logits(vector[0, -1:])[:, : row.readable]
            if greedy:
                token = chosen(logits, row.sampling, seen + proposed, [])[0]
            else:
                likely.append(next_probabilities(logits[0], row.sampling, seen + proposed))
                token = draw(likely[-1], row.generator)
            proposed.append(token)
            if len(proposed) < ahead:
                vector = self.read(vector[:, -1:], decoder.as_tokens([[token]]))
        self.cache.lengths = known
        return proposed, likely

    def read_all(self, hidden: Tensor, follow: list[int]) -> Tensor:
        """`read`, a chunk at a time; the last chunk's vectors."""
        tokens = self.decoder.as_tokens([follow])
        if len(follow) <= CHUNK:
            return self.read(hidden, tokens)
        parts = zip(hidden.split(CHUNK, dim=1), tokens.split(CHUNK, dim=1), strict=True)
        for vectors, own in parts:
            last = self.read(vectors, own)
        return last

    def read(
        self, hidden: Float[Tensor, "1 new d_model"], tokens: Int[Tensor, "1 new"]
    ) -> Float[Tensor, "1 new d_model"]:
        """`MultiTokenPrediction` with a cache: vectors that the head turns into proposals."""
        embedded = torch.embedding(self.decoder.embedding, tokens)
        parts = (embedded.flatten(0, 1), hidden.flatten(0, 1))
        joined = torch.cat([norm(x) for norm, x in zip(self.norms, parts, strict=True)], dim=-1)
        x = self.join(joined).view(hidden.shape)
        return self.decoder.run(self.stack, x, self.cache)


@torch.inference_mode()
def judge(
    row: Row, logits: Float[Tensor, "passes vocab"], proposed: list[int], likely: list[Tensor]
) -> tuple[int, int]:
    """How many proposals stand, and the token after them.

    logits[i] are the model's after proposal i − 1. Greedy: a proposal stands if the model would
    have chosen it. Sampled: `accept`.
    """
    logits, seen, sampling = logits[:, : row.readable], row.seen(), row.sampling
    if sampling.temperature == 0:
        wanted = chosen(logits, sampling, seen, proposed)
        stand = [own == token for own, token in zip(proposed, wanted, strict=False)]
        accepted = (stand + [False]).index(False)
        return accepted, wanted[accepted]
    wanted = [
        next_probabilities(own, sampling, seen + proposed[:place])
        for place, own in enumerate(logits)
    ]
    return accept(wanted, likely, proposed, row.generator)


def chosen(
    logits: Float[Tensor, "passes vocab"], sampling: Sampling, seen: list[int], proposed: list[int]
) -> list[int]:
    """The greedy token after each proposal, whether or not those before it stand."""
    if sampling.is_argmax:
        return greedy_tokens(logits)
    return [
        next_token(own, sampling, seen=seen + proposed[:place]) for place, own in enumerate(logits)
    ]


def accept(
    wanted: Sequence[Float[Tensor, "vocab"]],
    likely: Sequence[Float[Tensor, "vocab"]],
    proposed: Sequence[int],
    generator: torch.Generator | None = None,
) -> tuple[int, int]:
    """Keep a proposal x with probability min(1, p(x) / q(x)); else draw from max(p − q, 0).

    Then every token follows p = `wanted`, whatever q = `likely` proposed it: of the mass of x,
    min(p, q) comes by acceptance, and the rest, max(p − q, 0), is what a rejection draws from. Once
    all stand, one more token is drawn from the last p.
    Source: Leviathan et al., arXiv 2211.17192 §2.3; Chen et al., arXiv 2302.01318.
    """
    for place, (p, q, token) in enumerate(zip(wanted, likely, proposed, strict=False)):
        chance = torch.rand((), generator=generator, device=p.device)
        if chance * q[token] >= p[token]:
            missing = (p - q).clamp(min=0)
            return place, draw(missing if missing.sum() > 0 else p, generator)
    return len(proposed), draw(wanted[-1], generator)


def draw(weights: Float[Tensor, "vocab"], generator: torch.Generator | None) -> int:
    """One id, as likely as its weight says."""
    return torch.multinomial(weights, 1, generator=generator).item()
