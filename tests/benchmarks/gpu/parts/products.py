"""Grouped products on their own: the layer's three kernels with every tile size, and the ladder."""

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.benchmarks.gpu.cases import (
    LADDER,
    PRODUCTS,
    TILES,
    Product,
    choose_experts,
    product_flops,
)
from tests.benchmarks.gpu.libraries import DTYPES, ladder_steps
from tests.benchmarks.gpu.parts.bench import Bench
from tests.benchmarks.gpu.peers.layers import swiglu

TINY = [Product(4, 24, 16, 32)]
CHOICES = 4  # rows per token if rows are gathered by token
WIDE = {"grouped_gemm": (2, 4), "grouped_swiglu": (2, 3)}  # configurations: 128 × 128, 128 × 256
LARGE = [PRODUCTS[0], PRODUCTS[4], PRODUCTS[2]]


class Operands:
    """a [rows, k] sorted by expert, b [experts, n, k], and a matrix for the dense product."""

    def __init__(self, product: Product, loads: str, device: str) -> None:
        make = {"device": device, "dtype": torch.bfloat16}
        n_rows = product.experts * product.rows
        torch.manual_seed(0)
        self.product, self.device = product, device
        self.a = torch.randn(n_rows, product.k, **make)
        self.b = torch.randn(product.experts, product.n, product.k, **make) * product.k**-0.5
        self.dense = torch.randn(product.n, product.k, **make)
        self.out = torch.full((n_rows, product.n), torch.nan, **make)
        self.counts = row_counts(product, loads)
        ends = torch.tensor([0, *self.counts]).cumsum(0)
        self.offsets = ends.to(device)  # [experts + 1]
        self.ends = self.offsets[1:].int()

    def one_by_one(self) -> Tensor:
        """Multiply expert by expert with cuBLAS; the host knows the counts."""
        pairs = zip(self.a.split(self.counts), self.b, self.out.split(self.counts), strict=True)
        for a, b, out in pairs:
            torch.mm(a, b.T, out=out)
        return self.out

    def triton(self) -> Tensor:
        from tests.benchmarks.gpu.peers import triton_experts as peer

        rows = torch.arange(len(self.a), device=self.device)
        height = peer.tile_height(len(self.a), len(self.b))
        return peer.grouped(self.a, rows, self.b, self.offsets, height, self.b.shape[1])


def row_counts(product: Product, loads: str) -> list[int]:
    """Rows per expert: "even", or distributed by Zipf's law with some experts empty."""
    if loads == "even":
        return [product.rows] * product.experts
    ids, _ = choose_experts(product.experts * product.rows, product.experts, 1, "zipf")
    return ids.flatten().bincount(minlength=product.experts).tolist()


def run_tiles(bench: Bench) -> None:
    """The first question: which of the two large tile sizes is faster, at four shapes."""
    for product in bench.cases(TILES, 2, TINY):
        data = Operands(product, "even", bench.device)
        hidden, arguments = swiglu_arguments(data)
        expected = [swiglu(data.one_by_one())], [data.one_by_one().clone()]
        tiles(bench, "grouped_swiglu", product, arguments, hidden, expected[0])
        tiles(bench, "grouped_gemm", product, gemm_arguments(data), data.out, expected[1])


def tiles(
    bench: Bench, name: str, product: Product, arguments: tuple, out: Tensor, expected: list[Tensor]
) -> None:
    """Compare the launcher's own choice with both sizes."""
    small, large = WIDE[name]
    calls = {
        "mini_moe": configured(bench, name, -1, arguments, out),
        "128 × 128": configured(bench, name, small, arguments, out),
        "128 × 256": configured(bench, name, large, arguments, out),
    }
    case = {"kernel": name, **product._asdict()}
    flops = product_flops(product)
    bench.measure("tiles", case, calls, flops=flops, expected=expected, seconds=1.0)


def run(bench: Bench) -> None:
    """Time grouped_gemm at every shape, even and Zipf, then the layer's other products."""
    for loads in ("even", "zipf"):
        for product in bench.cases(PRODUCTS, 3, TINY):
            grouped_gemm(bench, product, loads)
    for product in bench.cases(LARGE, 1, TINY):
        gate_up_product(bench, product)
        for by_token in (False, True):
            down_gradient(bench, product, by_token)
        for side in ("", "a", "b"):
            weight_gradient(bench, product, side)


def run_ladder(bench: Bench) -> None:
    """Time every step, the extension's kernel, and cuBLAS on a dense product of equal FLOPs."""
    for product in bench.cases(LADDER, 1, TINY):
        data = Operands(product, "even", bench.device)
        calls = {
            f"step {number}: {name.replace('_', ' ')}": step(bench, data, number)
            for number, name in ladder_steps().items()
        }
        calls |= {
            "mini_moe": launch_gemm(bench, data, -1),
            "cuBLAS, dense": lambda data=data: F.linear(data.a, data.dense),
        }
        bench.measure(
            "ladder",
            product._asdict(),
            calls,
            flops=product_flops(product),
            expected=[data.one_by_one().clone()],
            unchecked=("cuBLAS, dense",),
        )


def step(bench: Bench, data: Operands, number: int):
    """Return a call of one step of the ladder."""
    sizes = (len(data.a), len(data.b), data.product.k, data.product.n)

    def call() -> Tensor:
        operands = (data.a, data.b, data.offsets, data.out)
        bench.launch(f"grouped_gemm_{number}", *operands, *sizes)
        return data.out

    return call


def launch_gemm(bench: Bench, data: Operands, configuration: int):
    """Return a call of the extension's launcher; −1 lets it choose the tiles."""
    return configured(bench, "grouped_gemm", configuration, gemm_arguments(data), data.out)


def gemm_arguments(data: Operands) -> tuple:
    """Return the arguments of out = a bᵀ."""
    sizes = (len(data.a), len(data.b), data.product.k, data.product.n)
    a = (data.a, DTYPES[data.a.dtype], None, len(data.a))  # no index: row r is row r
    return (*a, data.b, data.offsets, data.out, *sizes, 1)


def configured(bench: Bench, name: str, configuration: int, arguments: tuple, out: Tensor):
    """Return a call of a launcher with its own choice of tiles (−1) or a given one."""

    def call() -> Tensor:
        if configuration < 0:
            bench.launch(name, *arguments)
        else:
            bench.launch(f"{name}_configured", configuration, *arguments)
        return out

    return call


def every_configuration(bench: Bench, name: str, arguments: tuple, out: Tensor) -> dict:
    """Return calls with the launcher's own choice, and with each tile size by number."""
    count = bench.launchers.configurations(name) if bench.launchers else 0
    calls = {"mini_moe": configured(bench, name, -1, arguments, out)}
    for number in range(count):
        calls[f"mini_moe, tiles {number}"] = configured(bench, name, number, arguments, out)
    return calls


def grouped_gemm(bench: Bench, product: Product, loads: str) -> None:
    """Compare ours with torch, Triton and cuBLAS; a dense product of equal FLOPs is the ceiling."""
    data = Operands(product, loads, bench.device)
    calls = every_configuration(bench, "grouped_gemm", gemm_arguments(data), data.out)
    calls |= {
        "grouped_mm": lambda: F.grouped_mm(data.a, data.b.transpose(1, 2), offs=data.ends),
        "cuBLAS loop": data.one_by_one,
        "Triton": data.triton,
        "cuBLAS, dense": lambda: F.linear(data.a, data.dense),
    }
    bench.measure(
        "grouped_gemm",
        {"operation": "a bᵀ", **product._asdict(), "loads": loads},
        calls,
        flops=product_flops(product),
        expected=[data.one_by_one().clone()],
        unchecked=("cuBLAS, dense",),
        seconds=1.5,
    )


def by_tokens(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return a source with one row per token, and each row's token, with CHOICES rows per token."""
    token = torch.randperm(len(rows), device=rows.device) // CHOICES
    return rows[: int(token.max()) + 1], token


def down_gradient(bench: Bench, product: Product, by_token: bool) -> None:
    """Time [rows, n] back through b [experts, n, k]: the same kernel, with b not transposed.

    The layer calls it by token for the gradient of hidden, and directly for that of x.
    """
    data = Operands(product, "even", bench.device)
    n_rows = len(data.a)
    source, token = torch.randn_like(data.out), None
    if by_token:
        source, token = by_tokens(source)
    out = torch.empty_like(data.a)
    sizes = (n_rows, len(data.b), product.n, product.k)
    a = (source, DTYPES[source.dtype], token, len(source))
    arguments = (*a, data.b, data.offsets, out, *sizes, 0)

    def back() -> Tensor:
        return source[token] if by_token else source

    dense = back()
    calls = every_configuration(bench, "grouped_gemm", arguments, out)
    calls["grouped_mm"] = lambda: F.grouped_mm(back(), data.b, offs=data.ends)
    calls["cuBLAS, dense"] = lambda: dense @ data.dense
    pairs = zip(dense.split(data.counts), data.b, strict=True)
    expected = [torch.cat([part @ b for part, b in pairs])]
    measure_other(bench, "a[token] b" if by_token else "a b", product, calls, expected)


def gate_up_product(bench: Bench, product: Product) -> None:
    """Time gather, gate, up and SwiGLU in one kernel; n counts both halves."""
    data = Operands(product, "even", bench.device)
    token = torch.randperm(len(data.a), device=bench.device)
    hidden, arguments = swiglu_arguments(data, token)
    calls = every_configuration(bench, "grouped_swiglu", arguments, hidden)
    by_expert = data.b.transpose(1, 2)
    calls["grouped_mm"] = lambda: swiglu(F.grouped_mm(data.a[token], by_expert, offs=data.ends))
    calls["cuBLAS, dense"] = lambda: swiglu(F.linear(data.a, data.dense))
    pairs = zip(data.a[token].split(data.counts), data.b, strict=True)
    expected = [torch.cat([swiglu(part @ b.T) for part, b in pairs])]
    measure_other(bench, "swiglu(a bᵀ)", product, calls, expected)


def swiglu_arguments(data: Operands, token: Tensor | None = None) -> tuple[Tensor, tuple]:
    """Return hidden and the launcher's arguments; without tokens, row r is row r."""
    n_rows, half = len(data.a), data.product.n // 2
    hidden = data.out.new_empty(n_rows, half)
    operands = (data.a, DTYPES[data.a.dtype], token, n_rows, data.b, data.offsets, hidden, data.out)
    return hidden, (*operands, n_rows, len(data.b), data.product.k, half)


def weight_gradient(bench: Bench, product: Product, side: str) -> None:
    """Time [n, rows] times [rows, k] for every expert; `side` is the one gathered by token.

    The layer calls it with "a" for the down-projection and with "b" for gate and up.
    """
    data = Operands(product, "even", bench.device)
    sides, index = {"a": torch.randn_like(data.out), "b": data.a}, {"a": None, "b": None}
    n_rows = len(data.a)
    if side:
        sides[side], index[side] = by_tokens(sides[side])
    (a, b), (a_row, b_row) = sides.values(), index.values()
    out = torch.empty_like(data.b)
    kind, sizes = DTYPES[a.dtype], (n_rows, len(data.b), product.n, product.k)
    operands = (a, a_row, len(a), b, b_row, len(b), kind, data.offsets, out)

    def rows() -> list[Tensor]:
        return [sides[name] if index[name] is None else sides[name][index[name]] for name in "ab"]

    def grouped() -> Tensor:
        one, other = rows()
        return F.grouped_mm(one.T, other, offs=data.ends)

    one, other = rows()
    calls = every_configuration(bench, "grouped_wgrad", (*operands, *sizes), out)
    calls["grouped_mm"] = grouped
    calls["cuBLAS, dense"] = lambda: one.T @ other
    pairs = zip(one.split(data.counts), other.split(data.counts), strict=True)
    expected = [torch.stack([left.T @ right for left, right in pairs])]
    operation = {"": "aᵀ b", "a": "a[token]ᵀ b", "b": "aᵀ b[token]"}[side]
    measure_other(bench, operation, product, calls, expected)


def measure_other(
    bench: Bench, operation: str, product: Product, calls: dict, expected: list[Tensor]
) -> None:
    case = {"operation": operation, **product._asdict(), "loads": "even"}
    bench.measure(
        "grouped_gemm",
        case,
        calls,
        flops=product_flops(product),
        expected=expected,
        unchecked=("cuBLAS, dense",),
        seconds=1.5,
    )
