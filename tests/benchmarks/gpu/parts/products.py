"""Grouped products by themselves: the layer's three kernels with each size of tiles, the ladder."""

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.benchmarks.gpu.cases import (
    LADDER,
    PRODUCTS,
    Product,
    choose_experts,
    product_flops,
)
from tests.benchmarks.gpu.libraries import DTYPES, ladder_steps
from tests.benchmarks.gpu.parts.bench import Bench
from tests.benchmarks.gpu.peers.layers import swiglu

TINY = [Product(4, 24, 16, 32)]
OTHERS = 2  # cases that the two other kernels are timed on, of the list below
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
        """cuBLAS, an expert after the other; the host knows the counts."""
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
    """Rows an expert: "even", or as Zipf's law spreads them, with some experts that have none."""
    if loads == "even":
        return [product.rows] * product.experts
    ids, _ = choose_experts(product.experts * product.rows, product.experts, 1, "zipf")
    return ids.flatten().bincount(minlength=product.experts).tolist()


def run(bench: Bench) -> None:
    """grouped_gemm at every shape, evenly and by Zipf; then what else the layer multiplies."""
    for loads in ("even", "zipf"):
        for product in bench.cases(PRODUCTS, 3, TINY):
            grouped_gemm(bench, product, loads)
    for product in bench.cases(LARGE, 1, TINY):
        for operation in (down_gradient, gate_up_product, weight_gradient):
            operation(bench, product)


def run_ladder(bench: Bench) -> None:
    """Every step, the extension's kernel and cuBLAS on the dense product of equal FLOPs."""
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
    """A call of one step of the ladder."""
    sizes = (len(data.a), len(data.b), data.product.k, data.product.n)

    def call() -> Tensor:
        operands = (data.a, data.b, data.offsets, data.out)
        bench.launch(f"grouped_gemm_{number}", *operands, *sizes)
        return data.out

    return call


def launch_gemm(bench: Bench, data: Operands, configuration: int):
    """A call of the extension's launcher; −1 leaves the tiles to it."""
    return configured(bench, "grouped_gemm", configuration, gemm_arguments(data), data.out)


def gemm_arguments(data: Operands) -> tuple:
    """out = a bᵀ."""
    sizes = (len(data.a), len(data.b), data.product.k, data.product.n)
    a = (data.a, DTYPES[data.a.dtype], None, len(data.a))  # no index: row r is row r
    return (*a, data.b, data.offsets, data.out, *sizes, 1)


def configured(bench: Bench, name: str, configuration: int, arguments: tuple, out: Tensor):
    """A call of a launcher with its own choice of tiles (−1) or a given one."""

    def call() -> Tensor:
        if configuration < 0:
            bench.launch(name, *arguments)
        else:
            bench.launch(f"{name}_configured", configuration, *arguments)
        return out

    return call


def every_configuration(bench: Bench, name: str, arguments: tuple, out: Tensor) -> dict:
    """The launcher's own choice, and each size of tiles by number."""
    count = bench.launchers.configurations(name) if bench.launchers else 0
    calls = {"mini_moe": configured(bench, name, -1, arguments, out)}
    for number in range(count):
        calls[f"mini_moe, tiles {number}"] = configured(bench, name, number, arguments, out)
    return calls


def grouped_gemm(bench: Bench, product: Product, loads: str) -> None:
    """Ours beside torch, Triton and cuBLAS; the dense product of equal FLOPs is the ceiling."""
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


def down_gradient(bench: Bench, product: Product) -> None:
    """[rows, n] back through b [experts, n, k]: the same kernel, b not transposed."""
    data = Operands(product, "even", bench.device)
    back = torch.randn_like(data.out)
    out = torch.empty_like(data.a)
    sizes = (len(back), len(data.b), product.n, product.k)
    a = (back, DTYPES[back.dtype], None, len(back))
    arguments = (*a, data.b, data.offsets, out, *sizes, 0)
    calls = every_configuration(bench, "grouped_gemm", arguments, out)
    calls["grouped_mm"] = lambda: F.grouped_mm(back, data.b, offs=data.ends)
    calls["cuBLAS, dense"] = lambda: back @ data.dense
    pairs = zip(back.split(data.counts), data.b, strict=True)
    expected = [torch.cat([part @ b for part, b in pairs])]
    measure_other(bench, "a b", product, calls, expected)


def gate_up_product(bench: Bench, product: Product) -> None:
    """Gather, gate, up and SwiGLU in one kernel; n counts both halves."""
    data = Operands(product, "even", bench.device)
    n_rows, half = len(data.a), product.n // 2
    token = torch.randperm(n_rows, device=bench.device)
    hidden = data.out.new_empty(n_rows, half)
    operands = (data.a, DTYPES[data.a.dtype], token, n_rows, data.b, data.offsets, hidden, data.out)
    arguments = (*operands, n_rows, len(data.b), product.k, half)
    calls = every_configuration(bench, "grouped_swiglu", arguments, hidden)
    by_expert = data.b.transpose(1, 2)
    calls["grouped_mm"] = lambda: swiglu(F.grouped_mm(data.a[token], by_expert, offs=data.ends))
    calls["cuBLAS, dense"] = lambda: swiglu(F.linear(data.a, data.dense))
    pairs = zip(data.a[token].split(data.counts), data.b, strict=True)
    expected = [torch.cat([swiglu(part @ b.T) for part, b in pairs])]
    measure_other(bench, "swiglu(a bᵀ)", product, calls, expected)


def weight_gradient(bench: Bench, product: Product) -> None:
    """Of every expert: [n, rows] times [rows, k]."""
    data = Operands(product, "even", bench.device)
    back = torch.randn_like(data.out)
    out = torch.empty_like(data.b)
    kind, sizes = DTYPES[back.dtype], (len(back), len(data.b), product.n, product.k)
    operands = (back, None, len(back), data.a, None, len(data.a), kind, data.offsets, out)
    calls = every_configuration(bench, "grouped_wgrad", (*operands, *sizes), out)
    calls["grouped_mm"] = lambda: F.grouped_mm(back.T, data.a, offs=data.ends)
    calls["cuBLAS, dense"] = lambda: back.T @ data.a
    pairs = zip(back.split(data.counts), data.a.split(data.counts), strict=True)
    expected = [torch.stack([one.T @ other for one, other in pairs])]
    measure_other(bench, "aᵀ b", product, calls, expected)


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
