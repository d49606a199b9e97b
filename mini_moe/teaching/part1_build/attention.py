"""Exercises of 02_attention: rotary positions and the bytes of a cache."""

import torch

from mini_moe.model import rope
from mini_moe.teaching.exercise import Mistake, exercise, value_exercise

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
