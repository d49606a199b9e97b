"""Wrong answers to the exercises of 15_inference."""

import torch

from mini_moe.teaching.part4_speed.inference import absorbed_scores, expected_tokens, nucleus


def naive_scores(query, w_uk, latents):
    """Right numbers, but every key is made."""
    keys = torch.einsum("hnl,kl->hkn", w_uk, latents)
    return torch.einsum("hkn,hn->hk", keys, query)


def cut_early(p, top_p):
    """Cuts the token that crosses the line as well."""
    ranked, order = p.sort(descending=True)
    ranked = ranked.masked_fill(ranked.cumsum(0) > top_p, 0)
    ranked = ranked / ranked.sum().clamp(min=1e-9)
    return torch.zeros_like(p).scatter(0, order, ranked)


def cut_late(p, top_p):
    """Keeps one more where the line is met exactly."""
    ranked, order = p.sort(descending=True)
    ranked = ranked.masked_fill(ranked.cumsum(0) - ranked > top_p, 0)
    return torch.zeros_like(p).scatter(0, order, ranked / ranked.sum())


def unsorted(p, top_p):
    """Adds up in the order of the vocabulary."""
    kept = p.masked_fill(p.cumsum(0) - p >= top_p, 0)
    return kept / kept.sum()


def left_sorted(p, top_p):
    """Right shares, but in the sorted order."""
    return nucleus(p, top_p).sort(descending=True).values


def draw(weights, generator):
    return torch.multinomial(weights, 1, generator=generator).item()


def stands(p, q, token, generator):
    return torch.rand((), generator=generator) < p[token] / q[token]


def redraw(weights):
    """Accept proposals correctly, but draw from `weights(p, q)` after a rejection."""

    def answer(p, q, token, generator):
        if stands(p, q, token, generator):
            return token
        return draw(weights(p, q), generator)

    return answer


def only_better(p, q, token, generator):
    """No chance: accepts exactly where p is at least q."""
    return token if p[token] >= q[token] else draw((p - q).clamp(min=0), generator)


def upside_down(p, q, token, generator):
    if torch.rand((), generator=generator) < q[token] / p[token]:
        return token
    return draw((p - q).clamp(min=1e-9), generator)


def by_p_alone(p, q, token, generator):
    if torch.rand((), generator=generator) < p[token]:
        return token
    return draw((p - q).clamp(min=1e-9), generator)


WRONG = {
    "absorbed_scores": {
        "makes every key": (naive_scores, "You make a key for every token"),
        "forgets W_UK": (
            lambda q, w, c: (
                torch.einsum("hl,kl->hk", q[:, : c.shape[1]], c) if q.shape[1] > 3 else q
            ),
            "head 1 gives token 2",
        ),
        "one head's matrix for all": (
            lambda q, w, c: (q @ w[0]) @ c.T,
            "head 1 gives token 2",
        ),
        "heads summed": (
            lambda q, w, c: absorbed_scores(q, w, c).sum(0),
            "your scores have the shape [3]",
        ),
        "keys by heads": (
            lambda q, w, c: absorbed_scores(q, w, c).T,
            "[heads, keys]",
        ),
    },
    "crossover_tokens": {
        "new tokens for nothing in the naive way": (120.5, "320 each"),
        "absorbing for nothing": (409.6, "not nothing"),
        "rebuilds the rotated key": (213.3, "needs no rebuilding"),
        "keys alone": (85.33, "*and* values"),
        "times the heads": (21_845, "cancel"),
        "the laboratory's model": (64, "DeepSeek-V3"),
        "scores alone": (341.3, "weighted sum"),
        "another number": (150, "too low"),
    },
    "nucleus": {
        "cuts the crossing token": (cut_early, "one more stays"),
        "keeps one more": (cut_late, "two are exactly enough"),
        "does not sort": (unsorted, "2 is likelier than 0"),
        "forgets the old order": (left_sorted, "is the order the old one"),
        "forgets to scale": (
            lambda p, top_p: torch.where(nucleus(p, top_p) > 0, p, 0.0),
            "sums to 0.9",
        ),
        "a threshold on each": (
            lambda p, top_p: torch.where(p >= top_p, p, 0.0),
            "you keep the tokens []",
        ),
        "always two tokens": (
            lambda p, top_p: nucleus(torch.where(p >= p.topk(2).values[-1], p, 0.0), 1.0),
            "token 2 alone is enough",
        ),
        "a share of the best, as min-p": (
            lambda p, top_p: nucleus(torch.where(p >= (1 - top_p) * p.max(), p, 0.0), 1.0),
            "top_p = 0.75",
        ),
    },
    "accept_or_redraw": {
        "keeps everything": (lambda p, q, token, g: token, "which p never writes"),
        "never keeps": (lambda p, q, token, g: draw(p, g), "of the proposals"),
        "redraws from p": (redraw(lambda p, q: p), "often enough"),
        "redraws from |p − q|": (redraw(lambda p, q: (p - q).abs()), "token 0"),
        "redraws from q": (redraw(lambda p, q: q), "token 0"),
        "takes the largest gap": (
            redraw(lambda p, q: torch.nn.functional.one_hot((p - q).argmax(), len(p)).float()),
            "comes out in",
        ),
        "no chance, only better ones": (only_better, "half stand"),
        "q over p": (upside_down, "which p never writes"),
        "p alone, not the ratio": (by_p_alone, "of the proposals"),
        "p − q without the clamp": (
            lambda p, q, token, g: (
                token if stands(p, q, token, g) else draw((p - q) / (p - q).sum(), g)
            ),
            "RuntimeError",
        ),
    },
    "expected_tokens": {
        "every proposal counts alone": (lambda a, ahead: 1 + a * ahead, "if the first stands"),
        "without the own token": (
            lambda a, ahead: expected_tokens(a, ahead) - 1,
            "on top of what it accepts",
        ),
        "endless": (lambda a, ahead: 1 / (1 - a), "endless"),
        "the last alone": (lambda a, ahead: 1 + a**ahead, "the first proposal counts"),
        "one ahead only": (lambda a, ahead: 1 + a, "there are two"),
        "a closed form that divides by zero": (
            lambda a, ahead: (1 - a ** (ahead + 1)) / (1 - a),
            "ZeroDivisionError",
        ),
    },
}
