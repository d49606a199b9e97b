"""What is measured: shapes, routings, floating-point operations and bytes."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

BF16 = 2  # bytes per number


class Shape(NamedTuple):
    """A layer of experts."""

    tokens: int
    d_model: int
    d_expert: int
    experts: int
    top_k: int

    @property
    def rows(self) -> int:
        return self.tokens * self.top_k


class Product(NamedTuple):
    """A grouped product: every expert multiplies `rows` rows on average, [rows, k] by [k, n]."""

    experts: int
    rows: int
    n: int
    k: int


TEACHING = Shape(4096, 1024, 512, 32, 4)
DEEPSEEK_V3 = Shape(8192, 7168, 2048, 256, 8)  # 22.5 GB of weights
SLICE = Shape(4096, 7168, 2048, 8, 8)  # one of 32 devices' share of it: 8 × 4096 rows
SONIC = [  # SonicMoE, figure 14: the shapes of its own comparison
    Shape(24576, 1536, 256, 128, 8),
    Shape(24576, 1536, 1024, 32, 2),
    Shape(32768, 4096, 256, 256, 16),
    Shape(32768, 4096, 512, 128, 8),
    Shape(32768, 4096, 1024, 64, 4),
    Shape(32768, 4096, 1024, 128, 8),
    Shape(32768, 4096, 2048, 64, 4),
]
QWEN3 = Shape(32768, 2048, 768, 128, 8)
DECODE = [DEEPSEEK_V3._replace(tokens=tokens) for tokens in (1, 128)]
PRODUCTS = [  # the teaching layer's two; then TransformerEngine's; DeepGEMM's
    Product(32, 512, 1024, 1024),
    Product(32, 512, 1024, 512),
    Product(8, 4096, 768, 2048),
    Product(16, 2048, 768, 2048),
    Product(8, 4096, 4096, 7168),
    Product(8, 4096, 7168, 2048),
    Product(4, 8192, 4096, 7168),
    Product(4, 8192, 7168, 2048),
    Product(32, 1024, 2048, 4096),
]
TILES = [  # in theory 128 × 256 tiles win in the first three, 128 × 128 in the teaching layer's
    Product(8, 4096, 4096, 7168),
    Product(8, 4096, 7168, 2048),
    Product(128, 2048, 2048, 4096),
    Product(32, 512, 1024, 1024),
]
LADDER = [Product(8, 1024, 2048, 2048), Product(32, 512, 1024, 1024)]


def layer_flops(shape: Shape, backward: bool = False) -> int:
    """6 · rows · d_model · d_expert for three products; three times that with the backward pass."""
    return (18 if backward else 6) * shape.rows * shape.d_model * shape.d_expert


def product_flops(product: Product) -> int:
    """One multiplication and one addition per row, column and depth."""
    return 2 * product.experts * product.rows * product.n * product.k


def weight_bytes(shape: Shape, expert_ids: Tensor) -> int:
    """Bytes of the three matrices of all experts that were chosen."""
    active = len(expert_ids.unique())
    return active * 3 * shape.d_model * shape.d_expert * BF16


def layer_bytes(shape: Shape, expert_ids: Tensor) -> int:
    """Minimum traffic of a forward pass with a fused gather.

    Weights once, x once, hidden written and read, rows written and read by the mixing, out once.
    """
    rows = 2 * shape.rows * (shape.d_expert + shape.d_model) * BF16
    return weight_bytes(shape, expert_ids) + rows + 2 * shape.tokens * shape.d_model * BF16


def gather_bytes(rows: int, width: int) -> int:
    """Rows read and rows written: a token is read again for each of its rows.

    A token's rows are far apart in expert order, so the cache no longer holds it the next time.
    """
    return 2 * rows * width * BF16


def combine_bytes(tokens: int, rows: int, width: int) -> int:
    """Mixing reads each of the rows once and writes each of the tokens once."""
    return (tokens + rows) * width * BF16


def choose_experts(
    tokens: int, experts: int, top_k: int, routing: str, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Draw ids [tokens, top_k], distinct within a row, and gates that add up to one.

    "uniform": all experts equally likely. "zipf": expert r has weight 1 / (r + 1), and the last
    eighth are never chosen. Drawn without replacement: the top_k largest of log p − log(−log u).
    Always drawn on the CPU, so every device gets the same.
    """
    numbers = torch.Generator().manual_seed(seed)
    wanted = torch.zeros(experts)
    if routing == "zipf":
        wanted = -torch.arange(1, experts + 1).float().log()
        wanted[max(top_k, experts - experts // 8) :] = -math.inf
    noise = torch.rand(tokens, experts, generator=numbers).clamp(1e-9, 1 - 1e-7)
    ids = (wanted - (-noise.log()).log()).topk(top_k, dim=-1).indices
    gates = torch.rand(tokens, top_k, generator=numbers) + 0.1
    return ids, gates / gates.sum(dim=-1, keepdim=True)
