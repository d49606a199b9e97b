"""Speculative decoding: the MTP module proposes tokens, and one pass of the model checks them all.

The text is the same as with ordinary decoding: token for token if greedy, in distribution if
sampled. Only the number of passes changes.
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
from mini_moe.inference.sampling import (
    Sampling,
    greedy_tokens,
    log_probability,
    next_probabilities,
    next_token,
)
from mini_moe.inference.sequences import Generation, Prompt, SequenceState, make_sequences
from mini_moe.model import Transformer


class Round(NamedTuple):
    """One pass of the model: what was proposed, how much was accepted, and the token it added."""

    proposed: list[int]  # tokens from the MTP module, in order
    accepted: int  # how many of them were accepted, counted from the first
    added: int  # the model's own token after the accepted ones


@dataclass
class Speculation:
    """What speculative decoding did, pass by pass, from the second new token on."""

    rounds: list[Round] = field(default_factory=list)

    @property
    def acceptance(self) -> float:
        """Accepted tokens as a share of proposed tokens; NaN if none were proposed."""
        proposed = sum(len(one.proposed) for one in self.rounds)
        return sum(one.accepted for one in self.rounds) / proposed if proposed else float("nan")

    @property
    def tokens_per_pass(self) -> float:
        """Average number of tokens per pass of the model; ordinary decoding yields 1."""
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
    """Generate for one prompt with `ahead` proposed tokens per pass; also return statistics.

    Raises: ValueError for a model without an MTP module, and as `generate` does.
    """
    sequence = make_sequences(
        model, [prompt], max_new_tokens, sampling, seed, stop_token, stop, log_probabilities
    )[0]
    stats = Speculation()
    for _ in write_ahead(Drafter(Decoder(model), ahead), sequence, stats):
        pass
    return sequence.generation(), stats


def write_ahead(drafter: "Drafter", sequence: SequenceState, stats: Speculation) -> Iterator[None]:
    """Continue a sequence's prompt with proposals in every pass, and yield after every token.

    Each round: 1. the MTP module proposes tokens after the last one written; 2. the model reads
    that token and all proposals in one pass; 3. `judge` decides how many are accepted and adds a
    token; 4. both caches drop the rejected positions.
    Source: DeepSeek-V3, arXiv 2412.19437 §2.2 and §5.4.3; Leviathan et al., arXiv 2211.17192.
    """
    if sequence.ended:
        return
    decoder = drafter.decoder
    capacity = len(sequence.prompt) + sequence.limit - 1
    cache = LatentCache(decoder.model, 1, capacity)
    drafter.cache = LatentCache(decoder.model, 1, capacity, n_layers=1)
    hidden = decoder.read_all(sequence.prompt, cache)
    sequence.take(decoder.logits(hidden[0, -1]))
    yield
    follow = sequence.prompt[1:] + sequence.tokens  # the token after each position of `hidden`
    while not sequence.ended:
        room = min(drafter.ahead, sequence.limit - len(sequence.tokens) - 1)
        proposed, likely = drafter.propose(hidden, follow, room, sequence)
        before = cache.lengths[0]
        hidden = decoder.read(decoder.as_tokens([[sequence.tokens[-1], *proposed]]), cache)
        logits = decoder.logits(hidden[0])
        accepted, added = judge(sequence, logits, proposed, likely)
        stats.rounds.append(Round(proposed, accepted, added))
        cache.lengths = [before + accepted + 1]
        hidden, follow = hidden[:, : accepted + 1], [*proposed[:accepted], added]
        for token, own in zip(follow, logits, strict=False):
            sequence.add(
                token,
                log_probability(own[: sequence.readable], token) if sequence.measured else None,
            )
            yield
            if sequence.ended:
                return


class Drafter:
    """The first MTP module as a decoder in its own right: it proposes tokens, one at a time.

    From the model's vector at position i and the token at i + 1 it predicts token i + 2. To
    predict further, it uses its own output in place of the model's vector. Its cache keeps only
    positions computed from the model's vectors; its own guesses are dropped after each round.

    Raises: ValueError if `ahead` is below 1 or the model has no MTP module.
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
        self, hidden: Tensor, follow: list[int], ahead: int, sequence: SequenceState
    ) -> tuple[list[int], list[Tensor]]:
        """Propose `ahead` tokens after `follow`; also return the distribution each was drawn from.

        `hidden` [1, new, d_model] are vectors of the model that the module has not read yet, and
        `follow` are the tokens after them. Greedy proposals have no distributions.
        """
        proposed, likely = [], []
        if not ahead:
            return proposed, likely
        decoder, greedy = self.decoder, sequence.sampling.temperature == 0
        seen = sequence.seen()
        vector = self.read_all(hidden, follow)
        known = self.cache.lengths
        for _ in range(ahead):
            logits = decoder.logits(vector[0, -1:])[:, : sequence.readable]
            if greedy:
                token = chosen(logits, sequence.sampling, seen + proposed, [])[0]
            else:
                likely.append(next_probabilities(logits[0], sequence.sampling, seen + proposed))
                token = draw(likely[-1], sequence.generator)
            proposed.append(token)
            if len(proposed) < ahead:
                vector = self.read(vector[:, -1:], decoder.as_tokens([[token]]))
        self.cache.lengths = known
        return proposed, likely

    def read_all(self, hidden: Tensor, follow: list[int]) -> Tensor:
        """Call `read` on one chunk at a time and return the last chunk's vectors."""
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
        """Run `MultiTokenPrediction` with a cache; the head turns the result into proposals."""
        embedded = torch.embedding(self.decoder.embedding, tokens)
        parts = (embedded.flatten(0, 1), hidden.flatten(0, 1))
        joined = torch.cat([norm(x) for norm, x in zip(self.norms, parts, strict=True)], dim=-1)
        x = self.join(joined).view(hidden.shape)
        return self.decoder.run(self.stack, x, self.cache)


@torch.inference_mode()
def judge(
    sequence: SequenceState,
    logits: Float[Tensor, "passes vocab"],
    proposed: list[int],
    likely: list[Tensor],
) -> tuple[int, int]:
    """Return how many proposals are accepted, and the token after them.

    logits[i] are the model's logits after proposal i − 1 (i = 0: before any). Greedy: a proposal
    is accepted if the model would have chosen it. Sampled: see `accept`.
    """
    logits, seen, sampling = logits[:, : sequence.readable], sequence.seen(), sequence.sampling
    if sampling.temperature == 0:
        wanted = chosen(logits, sampling, seen, proposed)
        stand = [own == token for own, token in zip(proposed, wanted, strict=False)]
        accepted = (stand + [False]).index(False)
        return accepted, wanted[accepted]
    wanted = [
        next_probabilities(own, sampling, seen + proposed[:place])
        for place, own in enumerate(logits)
    ]
    return accept(wanted, likely, proposed, sequence.generator)


def chosen(
    logits: Float[Tensor, "passes vocab"], sampling: Sampling, seen: list[int], proposed: list[int]
) -> list[int]:
    """Return the greedy token after each proposal, whether or not the earlier ones are accepted."""
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
    """Accept a proposal x with probability min(1, p(x) / q(x)); else draw from max(p − q, 0).

    Every token then follows p = `wanted`, whatever distribution q = `likely` it was proposed from:
    acceptance contributes min(p, q) to the probability of x, and redrawing after a rejection
    contributes the rest, max(p − q, 0). If all are accepted, one more token is drawn from the
    last p.
    Source: Leviathan et al., arXiv 2211.17192 §2.3; Chen et al., arXiv 2302.01318.
    """
    for place, (p, q, token) in enumerate(zip(wanted, likely, proposed, strict=False)):
        chance = torch.rand((), generator=generator, device=p.device)
        if chance * q[token] >= p[token]:
            missing = (p - q).clamp(min=0)
            return place, draw(missing if missing.sum() > 0 else p, generator)
    return len(proposed), draw(wanted[-1], generator)


def draw(weights: Float[Tensor, "vocab"], generator: torch.Generator | None) -> int:
    """Draw one id with probability proportional to its weight."""
    return torch.multinomial(weights, 1, generator=generator).item()
