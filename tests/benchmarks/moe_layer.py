"""The experts' layer alone, compared with other implementations and with its upper limits.

Peers alternate within a round, and a ratio is the median over rounds of the ratios within each, so
other work on the machine affects it little. The dense network is a SwiGLU with the same number of
active multiply-adds: what the layer would cost if choosing experts were free. Its three products
alone are the limit set by the libraries behind torch.

With one thread (OMP_NUM_THREADS=1) the clock measures the thread's CPU time, so other work on the
machine only affects caches. With more threads it is wall-clock time.
"""

import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DeepseekV3Config
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3Experts

from mini_moe.ops import describe, moe_experts, use
from tests.benchmarks.common import alternate, report

SHAPES = [(2048, 256, 128, 16, 4), (4096, 512, 256, 64, 8)]  # tokens, d, d_expert, experts, top_k
DTYPES = [torch.float32, torch.bfloat16]
ROUNDS = {2048: 11, 4096: 3, 1: 40}
COMMAND = "python -m tests.benchmarks.run moe_layer"


def main() -> None:
    """Measure, print, write results/moe_layer.json."""
    print(describe())
    rows = [
        measure(shape, dtype, routing, backward)
        for shape in SHAPES
        for dtype in DTYPES
        for routing in ("uniform", "zipf")
        for backward in (False, True)
    ]
    rows += [decode(shape, dtype) for shape in SHAPES for dtype in DTYPES]
    single = torch.get_num_threads() == 1
    name = "moe_layer_one_thread" if single else "moe_layer"
    command = f"OMP_NUM_THREADS=1 {COMMAND}" if single else COMMAND
    report(name, command, rows, kernels=describe())


def take_turns(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each peer in each round."""
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    return alternate(calls, rounds, warm_up=1, clock=clock)


def measure(shape: tuple, dtype: torch.dtype, routing: str, backward: bool) -> dict:
    """Return our milliseconds, and our time divided by each peer's."""
    tokens, d_model, d_expert, experts, top_k = shape
    layer = Layer(shape, dtype, routing)
    peers = {
        "ours": layer.ours,
        "PyTorch path": layer.pytorch_path,
        "grouped_mm": layer.transformers("grouped_mm"),
        "eager": layer.transformers("eager"),
        "dense": dense(tokens, d_model, d_expert * top_k, dtype),
    }
    calls = {name: step(peer, layer.x, layer.grad, backward) for name, peer in peers.items()}
    calls["products"] = products(tokens, d_model, d_expert * top_k, dtype, backward)
    seconds = take_turns(calls, ROUNDS[tokens])
    row = {"shape": str(shape), "type": str(dtype)[6:], "routing": routing}
    return row | {"pass": "fwd+bwd" if backward else "fwd"} | ratios(seconds)


def ratios(seconds: dict[str, list[float]]) -> dict[str, float]:
    """Return the first peer's milliseconds and its time over each other's, as medians."""
    (first, ours), *others = seconds.items()
    found = {f"{first} ms": 1e3 * statistics.median(ours)}
    for name, theirs in others:
        pairs = zip(ours, theirs, strict=True)
        found[f"/ {name}"] = statistics.median(one / other for one, other in pairs)
    print({name: round(value, 3) for name, value in found.items()}, flush=True)
    return found


class Layer:
    """Inputs and weights shared by all implementations."""

    def __init__(self, shape: tuple, dtype: torch.dtype, routing: str):
        tokens, d_model, d_expert, experts, top_k = shape
        torch.manual_seed(0)
        self.config = DeepseekV3Config(
            hidden_size=d_model,
            moe_intermediate_size=d_expert,
            n_routed_experts=experts,
            num_local_experts=experts,
            num_experts_per_tok=top_k,
        )
        self.x = torch.randn(tokens, d_model, dtype=dtype).requires_grad_()
        self.grad = torch.randn(tokens, d_model, dtype=dtype)
        self.gate_up = weights(experts, 2 * d_expert, d_model, dtype=dtype)
        self.down = weights(experts, d_model, d_expert, dtype=dtype)
        popularity = 1 / torch.arange(1, experts + 1).float()
        popularity = popularity if routing == "zipf" else torch.ones(experts)
        self.ids = torch.multinomial(popularity.expand(tokens, experts), top_k)
        self.gates = torch.rand(tokens, top_k).to(dtype)

    def ours(self, x: Tensor) -> Tensor:
        """The layer as models call it."""
        return moe_experts(x, self.ids, self.gates, self.gate_up.unflatten(1, (2, -1)), self.down)

    def pytorch_path(self, x: Tensor) -> Tensor:
        """The same without the compiled kernels, in the forward and the backward pass."""
        with use("pytorch"):
            return self.ours(x)

    def transformers(self, implementation: str) -> Callable[[Tensor], Tensor]:
        """Return transformers' experts with the same weights."""
        self.config._experts_implementation = implementation
        module = DeepseekV3Experts(self.config)
        module.config = DeepseekV3Config.from_dict(self.config.to_dict())
        module.config._experts_implementation = implementation
        module.gate_up_proj, module.down_proj = self.gate_up, self.down
        return lambda x: module(x, self.ids, self.gates)


def weights(*shape: int, dtype: torch.dtype) -> torch.nn.Parameter:
    """Draw normal weights, scaled so that activations keep their size."""
    return torch.nn.Parameter((torch.randn(*shape) / shape[-1] ** 0.5).to(dtype))


def dense(tokens: int, d_model: int, d_ff: int, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """Return a SwiGLU network as wide as a token's active experts together."""
    gate_up = weights(2 * d_ff, d_model, dtype=dtype)
    down = weights(d_model, d_ff, dtype=dtype)

    def network(x: Tensor) -> Tensor:
        gate, up = F.linear(x, gate_up).chunk(2, dim=-1)
        return F.linear(F.silu(gate) * up, down)

    return network


def step(network: Callable, x: Tensor, grad: Tensor, backward: bool) -> Callable[[], None]:
    """Run one forward pass without gradients, or both passes with fresh gradients of all leaves."""

    def forward() -> None:
        with torch.no_grad():
            network(x)

    def both() -> None:
        output = network(x)
        leaves = [x, *leaves_of(output)]
        torch.autograd.grad(output, leaves, grad)

    return both if backward else forward


def leaves_of(output: Tensor) -> list[Tensor]:
    """Return the parameters that an output depends on."""
    seen, waiting, found = set(), [output.grad_fn], []
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if isinstance(getattr(node, "variable", None), torch.nn.Parameter):
            found.append(node.variable)
        waiting += [parent for parent, _ in node.next_functions]
    return found


def products(
    tokens: int, d_model: int, d_ff: int, dtype: torch.dtype, backward: bool
) -> Callable[[], None]:
    """Compute only the dense network's matrix products."""
    x, hidden = torch.randn(tokens, d_model).to(dtype), torch.randn(tokens, d_ff).to(dtype)
    both = torch.randn(tokens, 2 * d_ff).to(dtype)
    gate_up, down = torch.randn(2 * d_ff, d_model).to(dtype), torch.randn(d_model, d_ff).to(dtype)

    def call() -> None:
        x @ gate_up.T, hidden @ down.T
        if backward:
            x @ down, x.T @ hidden, both @ gate_up, both.T @ x

    return call


def decode(shape: tuple, dtype: torch.dtype) -> dict:
    """Time one token; the reference is the time to copy the weights of its experts."""
    layer = Layer((1, *shape[1:]), dtype, "uniform")
    chosen = layer.ids[0]
    active = [layer.gate_up.detach()[chosen], layer.down.detach()[chosen]]
    copies = [torch.empty_like(tensor) for tensor in active]

    def copy() -> None:
        for source, target in zip(active, copies, strict=True):
            target.copy_(source)

    def many(call: Callable[[], None]) -> Callable[[], None]:
        return lambda: [call() for _ in range(20)]

    def select() -> None:
        layer.gate_up.detach()[chosen], layer.down.detach()[chosen]

    peers = {"ours": layer.ours, "PyTorch path": layer.pytorch_path}
    peers |= {name: layer.transformers(name) for name in ("grouped_mm", "eager", "batched_mm")}
    calls = {n: many(step(peer, layer.x, layer.grad, False)) for n, peer in peers.items()}
    calls |= {"copy": many(copy), "select": many(select)}
    seconds = take_turns(calls, ROUNDS[1])
    seconds = {name: [value / 20 for value in values] for name, values in seconds.items()}
    row = {"shape": str((1, *shape[1:])), "type": str(dtype)[6:], "routing": "uniform"}
    return row | {"pass": "decode"} | ratios(seconds)
