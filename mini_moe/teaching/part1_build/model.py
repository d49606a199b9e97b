"""Exercises of 05_model: the parts between experts and attention."""

import torch

from mini_moe.model import layers
from mini_moe.teaching.exercise import exercise

rms_norm = exercise(
    layers.rms_norm,
    difficulty=2,
    importance=4,
    minutes=5,
    hints=(
        "The mean of the squares runs over the last axis: `x.pow(2).mean(dim=-1, keepdim=True)`.",
        "Divide by the square root of (mean square + eps); `torch.rsqrt` is 1 / √.",
        "Multiply by weight at the end. Nothing is subtracted: RMSNorm has no mean.",
    ),
)
rms_norm.agrees(
    "one vector (3, 4)", lambda: (torch.tensor([[3.0, 4.0]]), torch.ones(2), 1e-6), "your result"
)
rms_norm.agrees(
    "two rows and a weight per channel",
    lambda: (torch.tensor([[1.0, 2.0, 2.0], [0.0, 6.0, 0.0]]), torch.tensor([1.0, 2.0, 3.0]), 1e-6),
)
rms_norm.agrees("a row of zeros", lambda: (torch.zeros(1, 3), torch.ones(3), 1e-6))
rms_norm.agrees(
    "a tiny row, where eps counts", lambda: (torch.full((1, 4), 1e-3), torch.ones(4), 1e-6)
)
rms_norm.agrees(
    "a batch of sequences", lambda: (torch.arange(24.0).view(2, 3, 4), torch.ones(4), 1e-6)
)
