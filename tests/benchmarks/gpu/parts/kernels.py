"""Memory-bound kernels: copy and product as ceilings, gate, router, sorting, gathering, mixing."""

import torch
import torch.nn.functional as F

from mini_moe import presets
from mini_moe.model.router import Router, route
from mini_moe.ops import sort_rows, use
from tests.benchmarks.gpu.cases import (
    DEEPSEEK_V3,
    SONIC,
    TEACHING,
    Shape,
    choose_experts,
    combine_bytes,
    gather_bytes,
)
from tests.benchmarks.gpu.parts.bench import Bench
from tests.benchmarks.gpu.peers.layers import mix, sorted_rows

TINY = Shape(24, 64, 32, 16, 2)


def run(bench: Bench) -> None:
    """Measure the ceilings first, since everything else is compared with them."""
    ceilings(bench)
    gate(bench)
    whole_router(bench)
    for shape in bench.cases([DEEPSEEK_V3, TEACHING, SONIC[0]], 1, [TINY]):
        for routing in ("uniform", "zipf"):
            move(bench, shape, routing)


def ceilings(bench: Bench) -> None:
    """Measure the bandwidth of a large copy and the rate of a large product."""
    numbers, side = (1 << 20, 64) if bench.size == "tiny" else (1 << 29, 8192)
    make = {"device": bench.device, "dtype": torch.bfloat16}
    source = torch.randn(numbers, **make)
    target = torch.empty_like(source)
    case = {"gigabytes": source.nbytes / 1e9}
    copy = {"copy": lambda: target.copy_(source)}
    bench.measure("ceiling", case, copy, n_bytes=2 * source.nbytes)
    left, right = torch.randn(2, side, side, **make)
    product = {"cuBLAS": lambda: left @ right}
    bench.measure("ceiling", {"m = n = k": side}, product, flops=2 * side**3)


def gate(bench: Bench) -> None:
    """DeepSeek-V3's router: 256 experts in 8 groups, 4 groups and 8 experts per token."""
    config = presets.deepseek_v3()
    for tokens in bench.cases([8192, 128], 1, [32]):
        logits = torch.randn(tokens, config.n_routed_experts, device=bench.device)
        bias = 0.1 * torch.randn(config.n_routed_experts, device=bench.device)
        settings = (8, 8, 4, True, False, True, config.route_scale)

        def ours(logits=logits, bias=bias, settings=settings):
            gates, _, scores, _ = torch.ops.mini_moe.topk_gate(logits, bias, *settings)
            return gates, scores

        def theirs(logits=logits, bias=bias):
            routing = route(logits, bias, config)
            return routing.gates, routing.scores

        calls = {"mini_moe": ours, "PyTorch path": theirs}
        case = {"tokens": tokens, "experts": config.n_routed_experts, "top_k": 8, "groups": 8}
        expected = list(theirs())
        bench.measure("gate", case, calls, n_bytes=2 * logits.nbytes, expected=expected)


def whole_router(bench: Bench) -> None:
    """The full cost of a routing decision: the logits, the gate, and what `Routing` reports."""
    config = presets.tiny() if bench.size == "tiny" else presets.deepseek_v3()
    router = Router(config).to(bench.device)
    torch.nn.init.normal_(router.weight, std=config.d_model**-0.5)
    for tokens in bench.cases([8192, 128], 1, [32]):
        x = torch.randn(tokens, config.d_model, device=bench.device)

        @torch.no_grad()
        def ours(x=x):
            routing = router(x)
            return routing.gates, routing.scores

        def theirs(ours=ours):
            with use("pytorch"):
                return ours()

        case = {"tokens": tokens, "d_model": config.d_model, "experts": config.n_routed_experts}
        expected = [tensor.clone() for tensor in theirs()]
        calls = {"mini_moe": ours, "PyTorch path": theirs}
        bench.measure("router", case, calls, expected=expected)


def move(bench: Bench, shape: Shape, routing: str) -> None:
    """Sort the choices, gather tokens into rows, mix rows into tokens."""
    ids, gates = choose_experts(shape.tokens, shape.experts, shape.top_k, routing)
    ids, gates = ids.to(bench.device), gates.to(bench.device)
    known = sort_rows(ids, shape.experts)
    rows = sorted_rows(ids, shape.experts)
    x = torch.randn(shape.tokens, shape.d_model, device=bench.device, dtype=torch.bfloat16)
    gathered = x[rows.token]
    ops = torch.ops.mini_moe
    case = {**shape._asdict(), "routing": routing}
    sorts = {
        "mini_moe": lambda: ops.sort_rows(ids, shape.experts),
        "PyTorch path": lambda: sort_rows(ids, shape.experts),
        "torch, nothing on the host": lambda: sorted_rows(ids, shape.experts),
    }
    bench.measure(
        "sort", case, sorts, expected=list(known), unchecked=("torch, nothing on the host",)
    )
    n_bytes = gather_bytes(shape.rows, shape.d_model)
    gathers = {
        "mini_moe": lambda: ops.combine(x, rows.token[:, None], None),
        "torch index": lambda: x[rows.token],
        "torch embedding_bag": lambda: F.embedding_bag(rows.token[:, None], x, mode="sum"),
    }
    bench.measure("permute", case, gathers, n_bytes=n_bytes, expected=[gathered])
    narrow = gates.to(x.dtype)
    mixes = {
        "mini_moe": lambda: ops.combine(gathered, rows.place, gates),
        "torch bmm": lambda: mix(gathered, rows.place, gates),
        "torch embedding_bag": lambda: F.embedding_bag(
            rows.place, gathered, per_sample_weights=narrow, mode="sum"
        ),
    }
    n_bytes = combine_bytes(shape.tokens, shape.rows, shape.d_model)
    expected = [mix(gathered, rows.place, gates)]
    bench.measure("combine", case, mixes, n_bytes=n_bytes, expected=expected)
