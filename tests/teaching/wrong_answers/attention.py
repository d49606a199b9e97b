"""Wrong answers to the exercises of 02_attention."""

import torch

from mini_moe.model.rope import apply_rope, rope_frequencies
from mini_moe.teaching.part1_build.attention import causal_weights


def halves(x, rotation):
    """Rotates channel i with i + width / 2, as many other models do."""
    cos, sin = rotation.unbind(-1)
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)


def unordered(x, rotation):
    """Turns the right pairs, but puts all first channels before all second ones."""
    cos, sin = rotation.unbind(-1)
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)


def spoils_its_input(x, rotation):
    """Right, but x is rotated too."""
    turned = apply_rope(x, rotation)
    x.copy_(turned)
    return turned


def masked(scores, diagonal=1, value=float("-inf")):
    """The scores with `value` where the key lies ahead."""
    return scores.masked_fill(torch.ones_like(scores).triu(diagonal).bool(), value)


WRONG = {
    "causal_weights": {
        "sees the future": (
            lambda q, k, scale: (scale * q @ k.T).softmax(dim=-1),
            "it lies ahead",
        ),
        "sees only the future": (
            lambda q, k, scale: causal_weights(q, k, scale).T,
            "it lies ahead",
        ),
        "zeros before the softmax": (
            lambda q, k, scale: masked(scale * q @ k.T, value=0).softmax(dim=-1),
            "it lies ahead",
        ),
        "masks after the softmax": (
            lambda q, k, scale: (scale * q @ k.T).softmax(dim=-1).tril(),
            "must sum to 1",
        ),
        "blind to itself": (
            lambda q, k, scale: masked(scale * q @ k.T, diagonal=0).softmax(dim=-1),
            "must at least see itself",
        ),
        "softmax over the queries": (
            lambda q, k, scale: masked(scale * q @ k.T).softmax(dim=0),
            "sum to",
        ),
        "forgets the scale": (lambda q, k, scale: causal_weights(q, k, 1.0), "at [1, 0]"),
        "keys ask, queries answer": (
            lambda q, k, scale: causal_weights(k, q, scale),
            "three tokens",
        ),
        "scores, not weights": (
            lambda q, k, scale: (scale * q @ k.T).tril(),
            "must sum to 1",
        ),
    },
    "rope_frequencies": {
        "one per channel": (
            lambda width, theta: theta ** -(torch.arange(width) / width),
            "8 channels make 4 pairs",
        ),
        "grows instead of falling": (
            lambda width, theta: 1 / rope_frequencies(width, theta),
            "must be the slowest",
        ),
        "i instead of 2i": (
            lambda width, theta: theta ** -(torch.arange(width // 2) / width),
            "at [1]",
        ),
        "starts at pair 1": (
            lambda width, theta: theta ** -(torch.arange(2, width + 2, 2) / width),
            "theta^0 is 1",
        ),
        "theta is always 10,000": (
            lambda width, theta: rope_frequencies(width, 10_000.0),
            "theta 500",
        ),
    },
    "apply_rope": {
        "turns clockwise": (
            lambda x, r: apply_rope(x, torch.stack((r[..., 0], -r[..., 1]), dim=-1)),
            "clockwise",
        ),
        "pairs half a vector apart": (halves, "at [1, "),
        "leaves the halves apart": (unordered, "though every angle is 0"),
        "does nothing": (lambda x, r: x.clone(), "three positions"),
        "two plus signs": (
            lambda x, r: torch.stack(
                (
                    x[..., 0::2] * r[..., 0] + x[..., 1::2] * r[..., 1],
                    x[..., 0::2] * r[..., 1] + x[..., 1::2] * r[..., 0],
                ),
                dim=-1,
            ).flatten(-2),
            "long",
        ),
        "changes its input": (spoils_its_input, "leave the input as it is"),
    },
    "kv_bytes": {
        "full keys and values": (3_997_696, "128 heads"),
        "the latent only": (62_464, "rotated key"),
        "numbers, not bytes": (35_136, "2 bytes"),
        "one layer": (1_152, "61"),
        "another number": (100_000, "too high"),
    },
    "cache_saving": {
        "six bits against sixteen": (93.3, "16"),
        "what remains": (17.8, "remains"),
        "a fraction": (0.8224, "percent"),
        "keys without values": (64.5, "keeps both"),
        "another number": (50, "too low"),
    },
}
