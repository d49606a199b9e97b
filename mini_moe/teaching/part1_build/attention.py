"""Exercises of 02_attention: causal weights, rotary positions, the bytes of a cache."""

import torch
from jaxtyping import Float
from torch import Tensor

from mini_moe.model import rope
from mini_moe.teaching.exercise import Mistake, exercise, value_exercise


def causal_weights(
    query: Float[Tensor, "seq d"], key: Float[Tensor, "seq d"], scale: float
) -> Float[Tensor, "seq seq"]:
    """softmax(scale · q kᵀ), row by row, where a token sees itself and those before."""
    scores = scale * query @ key.T
    future = torch.ones_like(scores, dtype=torch.bool).triu(diagonal=1)
    return scores.masked_fill(future, float("-inf")).softmax(dim=-1)


weights = exercise(
    causal_weights,
    difficulty=2,
    importance=5,
    minutes=8,
    hints=(
        "Three steps: scores of all pairs, −inf where the key lies ahead, softmax over each row.",
        "`torch.ones(n, n).triu(diagonal=1).bool()` is True where the column is past the row.",
        "`scores.masked_fill(future, float('-inf')).softmax(dim=-1)`; e^(−inf) is exactly 0.",
    ),
)


@weights.probe("three tokens")
def _(student):
    found = student(some_vectors(3, 2), some_vectors(3, 2), 0.7)
    if found.shape != (3, 3):
        raise Mistake(f"your weights have the shape {list(found.shape)}; [3, 3] expected")
    ahead = found.triu(diagonal=1).abs()
    if float(ahead.max()) > 1e-6:
        token, later = divmod(int(ahead.argmax()), 3)
        weight = float(found[token, later])
        raise Mistake(f"token {token} gives token {later} the weight {weight:.3f}; it lies ahead")
    if found.isnan().any():
        raise Mistake("some weights are NaN; each token must at least see itself")
    for row, total in enumerate(found.sum(dim=-1).tolist()):
        if abs(total - 1) > 1e-4:
            raise Mistake(f"the weights of token {row} sum to {total:.3g}; they must sum to 1")


weights.agrees("three tokens", lambda: (some_vectors(3, 2), some_vectors(3, 2).flip(0), 0.7))
weights.agrees("five tokens, scale 0.25", lambda: (some_vectors(5, 4), some_vectors(5, 4), 0.25))

rope_frequencies = exercise(
    rope.rope_frequencies,
    difficulty=2,
    importance=4,
    minutes=5,
    hints=(
        "Pair i turns by theta^(−2i / width) radians a position; there are width / 2 pairs.",
        "`torch.arange(0, width, 2)` is already 2i.",
        "The first pair turns by exactly 1 radian, the following ones ever more slowly.",
    ),
)


@rope_frequencies.probe("width 8")
def _(student):
    found = student(8, 10_000.0)
    if len(found) != 4:
        raise Mistake(f"you give {len(found)} frequencies; 8 channels make 4 pairs")
    if abs(float(found[0]) - 1) > 1e-6:
        raise Mistake(f"your first pair turns by {float(found[0]):.4g} a position; theta^0 is 1")
    if float(found[-1]) > 1:
        raise Mistake(f"your last pair turns by {float(found[-1]):.4g}; it must be the slowest")


rope_frequencies.agrees("width 8, theta 10,000", lambda: (8, 10_000.0))
rope_frequencies.agrees("width 16, theta 500", lambda: (16, 500.0))


def some_rotation(seq: int, width: int) -> torch.Tensor:
    """Cosine and sine [seq, pairs, 2] of the angles that positions 0 … seq − 1 turn by."""
    angles = torch.arange(seq)[:, None] * rope.rope_frequencies(width, 10_000.0)
    return torch.stack((angles.cos(), angles.sin()), dim=-1)


def some_vectors(*shape: int) -> torch.Tensor:
    """The same random numbers at every call."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2))


apply_rope = exercise(
    rope.apply_rope,
    difficulty=3,
    importance=5,
    minutes=10,
    hints=(
        "A pair (a, b) turned by an angle is (a cos − b sin, a sin + b cos).",
        "The pairs are neighbours: `x[..., 0::2]` holds every a, `x[..., 1::2]` every b.",
        "`torch.stack((first, second), dim=-1).flatten(-2)` puts neighbours side by side again.",
    ),
)


@apply_rope.probe("position 0 turns nothing")
def _(student):
    x = some_vectors(1, 6)
    turned = student(x, some_rotation(1, 6))
    if turned.shape != x.shape:
        raise Mistake(f"your result has the shape {list(turned.shape)}; {list(x.shape)} expected")
    if not torch.allclose(turned, x, atol=1e-5):
        raise Mistake("your result differs from x, though every angle is 0")


@apply_rope.probe("a rotation keeps lengths")
def _(student):
    x = some_vectors(3, 4)
    before, after = x.norm(dim=-1), student(x, some_rotation(3, 4)).norm(dim=-1)
    if not torch.allclose(before, after, atol=1e-4):
        raise Mistake(f"the vector at position 2 was {before[2]:.3f} long, is {after[2]:.3f} now")


@apply_rope.probe("the pair (1, 0) at position 1")
def _(student):
    turned = student(torch.tensor([[0.0, 0.0], [1.0, 0.0]]), some_rotation(2, 2))[1]
    if float(turned[1]) < 0:
        raise Mistake(f"the sine is {float(turned[1]):.3f}; you turn clockwise, check the signs")


apply_rope.agrees("three positions, two pairs", lambda: (some_vectors(3, 4), some_rotation(3, 4)))
apply_rope.agrees(
    "two heads of five positions", lambda: (some_vectors(2, 5, 8), some_rotation(5, 8))
)


kv_bytes = value_exercise(
    "kv_bytes",
    70_272,
    explanation=(
        "(512 of the latent + 64 of the rotated key) · 61 layers · 2 bytes of bfloat16 = 70,272 "
        "bytes a token."
    ),
    difficulty=2,
    importance=5,
    minutes=5,
    hints=(
        "MLA keeps one latent of kv_lora_rank=512 and one rotated key of 64 numbers, a layer.",
        "61 layers, and bfloat16 takes 2 bytes a number.",
    ),
)


@kv_bytes.probe()
def _(value):
    if value == 3_997_696:
        raise Mistake("that is what 128 heads with full keys and values of 128 numbers would need")
    if value == 62_464:
        raise Mistake("62,464 is the latent alone; the rotated key of 64 numbers is missing")
    if value == 35_136:
        raise Mistake("35,136 is the count of numbers; bfloat16 takes 2 bytes each")
    if value == 1_152:
        raise Mistake("1,152 bytes is one layer; there are 61")


cache_saving = value_exercise(
    "cache_saving",
    82.2,
    explanation=(
        "DeepSeek-V2 keeps 60 · 576 = 34,560 numbers a token, DeepSeek-67B 95 · 2 · 8 · 128 = "
        "194,560. At equal bits 1 − 34,560 / 194,560 = 82.2 % are saved."
    ),
    tolerance=0.06,
    difficulty=2,
    importance=4,
    minutes=5,
    hints=(
        "With the same bits a number, the bits cancel: compare how many numbers a token costs.",
        "DeepSeek-V2: 60 layers of 512 + 64. DeepSeek-67B: 95 layers of 8 keys and 8 values, 128.",
        "Percent saved: 100 · (1 − small / large).",
    ),
)


@cache_saving.probe()
def _(value):
    if abs(value - 93.3) < 0.1:
        raise Mistake("93.3 counts 6 bits against 16; give both the same 16")
    if abs(value - 17.8) < 0.1:
        raise Mistake("17.8 is what remains; how much is saved?")
    if abs(value - 0.822) < 0.001:
        raise Mistake("0.822 is a fraction; the answer is wanted in percent")
    if abs(value - 64.5) < 0.1:
        raise Mistake("64.5 counts only one of key and value for the older model; it keeps both")
