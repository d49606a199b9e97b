"""Exercises of 15_inference: absorption and where it pays, the nucleus, speculative decoding."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mini_moe.inference.speculative import accept
from mini_moe.teaching.exercise import Mistake, exercise, value_exercise


def absorbed_scores(
    query: Float[Tensor, "heads nope"],
    w_uk: Float[Tensor, "heads nope rank"],
    latents: Float[Tensor, "keys rank"],
) -> Float[Tensor, "heads keys"]:
    """Scores of one query with all cached latents, and not one key made: (W_UKᵀ q) · c."""
    absorbed = torch.einsum("hn,hnl->hl", query, w_uk)
    return absorbed @ latents.T


scores = exercise(
    absorbed_scores,
    difficulty=3,
    importance=5,
    minutes=8,
    hints=(
        "(W c) · q is the same number as c · (Wᵀ q): put the brackets elsewhere.",
        "First a vector of `rank` numbers for each head: W_UKᵀ q. Then its product with latents.",
        '`torch.einsum("hn,hnl->hl", query, w_uk)` is W_UKᵀ q of every head.',
    ),
)


def some_heads(heads: int, nope: int, rank: int, keys: int) -> tuple[Tensor, Tensor, Tensor]:
    """A query, W_UK of every head, and latents; the same numbers at every call."""
    numbers = torch.Generator().manual_seed(15)
    shapes = (heads, nope), (heads, nope, rank), (keys, rank)
    return tuple(torch.randn(*shape, generator=numbers) for shape in shapes)


@scores.probe("two heads, three tokens")
def _(student):
    query, w_uk, latents = some_heads(2, 4, 3, 3)
    found = student(query, w_uk, latents)
    if tuple(found.shape) != (2, 3):
        raise Mistake(f"your scores have the shape {list(found.shape)}; [heads, keys] = [2, 3]")
    key = w_uk[1] @ latents[2]
    wanted, got = float(key @ query[1]), float(found[1, 2])
    if abs(wanted - got) > 1e-4:
        raise Mistake(
            f"head 1 gives token 2 the score {got:.3f}; its key W_UK c times its query is "
            f"{wanted:.3f}"
        )


scores.agrees("four heads, five tokens", lambda: some_heads(4, 6, 3, 5))


@scores.probe("200 tokens, 4 heads of 32, a latent of 6")
def _(student):
    counted = FlopCounterMode(display=False)
    with counted:
        student(*some_heads(4, 32, 6, 200))
    most = 2 * 4 * (32 * 6 + 200 * 6)
    if counted.get_total_flops() > 2 * most:
        raise Mistake(
            f"right, but it took {counted.get_total_flops():,} FLOPs; absorbed they are {most:,}. "
            "You make a key for every token; put W_UK into the query first"
        )


crossover = value_exercise(
    "crossover_tokens",
    512 * 256 / (2 * 512 - 256),
    tolerance=1,
    explanation="Per key and head, rebuilding costs 512 · 256 products once. Each new token then "
    "costs 192 + 128 = 320, absorbed 576 + 512 = 1,088. 131,072 / (1,088 − 320) = 170.7: up to 170 "
    "new tokens absorbing is cheaper. `mini_moe.inference.engine.absorption.crossover` counts the "
    "projections of the new tokens as well.",
    difficulty=4,
    importance=4,
    minutes=10,
    hints=(
        "Count for one head and one cached token; heads and keys multiply both sides alike.",
        "Naive: 512 · (128 + 128) once, then (192 + 128) for each new token.",
        "Absorbed: (576 + 512) for each new token. Where are both equal?",
    ),
)


@crossover.probe()
def _(value):
    slips = {
        512 * 256 / 1088: "the new tokens cost something in the naive way, too: 320 each",
        512 * 256 / 320: "absorbed, each new token costs 576 + 512, not nothing",
        512 * 320 / 768: "the rotated key needs no rebuilding; it is in the cache as it is",
        512 * 128 / 768: "keys *and* values are rebuilt: 128 + 128 numbers a head",
        512 * 256 / (1088 - 320) * 128: "all heads multiply both sides; they cancel",
        64: "that is the laboratory's own model; DeepSeek-V3 is asked for",
        512 * 256 / (576 - 192): "only the scores; the weighted sum of values counts as well",
    }
    for slip, words in slips.items():
        if abs(value - slip) < 0.006 * slip:
            raise Mistake(f"{value:,.4g}: {words}")


def nucleus(probabilities: Float[Tensor, "vocab"], top_p: float | int) -> Float[Tensor, "vocab"]:
    """The fewest likeliest tokens that together reach top_p, scaled to sum to 1; the rest 0."""
    ranked, order = probabilities.sort(descending=True)
    before = ranked.cumsum(dim=0) - ranked  # what the likelier ones already make up
    ranked = ranked.masked_fill(before >= top_p, 0)
    return torch.zeros_like(probabilities).scatter(0, order, ranked / ranked.sum())


cut = exercise(
    nucleus,
    difficulty=3,
    importance=4,
    minutes=10,
    hints=(
        "Sort, add up from the likeliest on, and keep a token while those *before* it are too few.",
        "`ranked.cumsum(0) - ranked` is what the likelier tokens make up; cut where it is ≥ top_p.",
        "Back to the old order: `torch.zeros_like(p).scatter(0, order, ranked / ranked.sum())`.",
    ),
)


@cut.probe("0.1, 0.6, 0.3 and top_p = 0.7")
def _(student):
    found = student(torch.tensor([0.1, 0.6, 0.3]), 0.7)
    if tuple(found.shape) != (3,):
        raise Mistake(f"your result has the shape {list(found.shape)}; one number a token expected")
    kept = [n for n, share in enumerate(found.tolist()) if share > 1e-6]
    if kept == [1]:
        raise Mistake("you keep token 1 alone: 0.6. The tokens must *reach* 0.7, so one more stays")
    if kept == [0, 1]:
        raise Mistake(
            "you keep tokens 0 and 1, but 2 is likelier than 0; is the order the old one?"
        )
    if kept != [1, 2]:
        raise Mistake(f"you keep the tokens {kept}; 1 and 2 together reach 0.7")
    total = float(found.sum())
    if abs(total - 1) > 1e-4:
        raise Mistake(f"what you keep sums to {total:.3g}; scale it to 1, or nothing can be drawn")


@cut.probe("one token has 0.9, top_p = 0.5")
def _(student):
    found = student(torch.tensor([0.05, 0.05, 0.9]), 0.5)
    if not torch.allclose(found, torch.tensor([0.0, 0.0, 1.0])):
        raise Mistake(f"you give {[round(v, 3) for v in found.tolist()]}; token 2 alone is enough")


cut.agrees(
    "0.5, 0.25, 0.125, 0.125 and top_p = 0.75: two are exactly enough",
    lambda: (torch.tensor([0.5, 0.25, 0.125, 0.125]), 0.75),
)
cut.agrees("seven tokens, top_p = 0.8", lambda: (some_heads(7, 1, 1, 1)[0][:, 0].softmax(0), 0.8))
cut.agrees("top_p = 1 keeps all", lambda: (torch.tensor([0.25, 0.5, 0.25]), 1.0))


def accept_or_redraw(
    p: Float[Tensor, "vocab"],
    q: Float[Tensor, "vocab"],
    token: int,
    generator: torch.Generator | None = None,
) -> int:
    """The proposed token with probability min(1, p / q), else one drawn from max(p − q, 0)."""
    kept, written = accept([p, p], [q], [token], generator)
    return token if kept else written


verdict = exercise(
    accept_or_redraw,
    source=accept,
    difficulty=4,
    importance=5,
    minutes=12,
    hints=(
        "Draw a number in [0, 1): below p[token] / q[token] the proposal stands.",
        "Rejected: the proposer gave some tokens less than they deserve, by p − q where positive.",
        "`torch.multinomial((p - q).clamp(min=0), 1, generator=generator).item()`",
    ),
)
WANTED = (0.5, 0.3, 0.15, 0.05)
PROPOSED = (0.1, 0.2, 0.3, 0.4)


def shares(student, p: Tensor, q: Tensor, draws: int, token: int | None = None) -> list[float]:
    """How often each token comes out, for proposals from q (or always `token`)."""
    numbers = torch.Generator().manual_seed(4)
    proposals = torch.multinomial(q, draws, replacement=True, generator=numbers).tolist()
    counts = [0] * len(p)
    for proposal in proposals:
        got = int(student(p, q, proposal if token is None else token, numbers))
        if not 0 <= got < len(p):
            raise Mistake(f"you return {got}; a token from 0 to {len(p) - 1} expected")
        counts[got] += 1
    return [count / draws for count in counts]


@verdict.probe("the same p and q")
def _(student):
    p = torch.tensor(WANTED)
    if (kept := shares(student, p, p, 300, token=3)[3]) < 1:
        raise Mistake(f"you keep {kept:.0%} of the proposals; nothing is wrong with any of them")


@verdict.probe("a token that p never writes")
def _(student):
    p, q = torch.tensor([0.0, 0.4, 0.6]), torch.tensor([0.5, 0.5, 0.0])
    found = shares(student, p, q, 300, token=0)
    if found[0] > 0:
        raise Mistake(f"{found[0]:.0%} of the time you keep token 0, which p never writes")
    if found[1] > 0:
        raise Mistake("after a rejection you write token 1; q proposes it often enough (0.5 ≥ 0.4)")


@verdict.probe("p = 0.5 and q = 1 for the proposal")
def _(student):
    p, q = torch.tensor([0.5, 0.5]), torch.tensor([1.0, 0.0])
    kept = shares(student, p, q, 1000, token=0)[0]
    if abs(kept - 0.5) > 0.08:
        raise Mistake(f"you keep {kept:.0%} of them; q proposes it twice too often, so half stand")


@verdict.probe("4,000 proposals drawn from q")
def _(student):
    draws = 4000
    p, q = torch.tensor(WANTED), torch.tensor(PROPOSED)
    for token, (got, want) in enumerate(zip(shares(student, p, q, draws), WANTED, strict=True)):
        if abs(got - want) > 4.5 * (want * (1 - want) / draws) ** 0.5:
            raise Mistake(
                f"token {token} comes out in {got:.1%} of all cases; p says {want:.0%}, and chance "
                f"alone would not explain that"
            )


def expected_tokens(acceptance: float | int, ahead: int) -> float | int:
    """Tokens a pass yields on average: 1 + a + a² + … + a^ahead.

    Source: Leviathan et al., arXiv 2211.17192 §3.1.
    """
    return sum(acceptance**place for place in range(ahead + 1))


expected = exercise(
    expected_tokens,
    difficulty=2,
    importance=4,
    minutes=6,
    hints=(
        "One token always comes: the model's own. When does a second one?",
        "The third token needs both proposals before it to stand: a · a.",
        "`sum(acceptance**place for place in range(ahead + 1))`",
    ),
)


@expected.probe("0.8 and two tokens ahead")
def _(student):
    found = float(student(0.8, 2))
    slips = {
        2.6: "a second proposal only counts if the first stands",
        1.44: "the model's own token comes on top of what it accepts",
        1.8: "that is one token ahead; there are two",
        5.0: "that is endless proposing; there are two",
        1.64: "the first proposal counts, too: 1 + 0.8 + 0.64",
    }
    for slip, words in slips.items():
        if abs(found - slip) < 0.004:
            raise Mistake(f"you give {found:.3g}: {words}")


expected.agrees("every proposal stands, three ahead", lambda: (1.0, 3))
expected.agrees("none stands, three ahead", lambda: (0.0, 3))
expected.agrees("0.8 and two ahead", lambda: (0.8, 2))
expected.agrees("0.85 and one ahead, as in DeepSeek-V3", lambda: (0.85, 1))
