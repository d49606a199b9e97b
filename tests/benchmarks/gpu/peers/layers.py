"""The layer of experts in nine ways, and a dense network of equal cost as the upper limit.

Ids and gates are given; the router is timed on its own. Each way is a function of the same tensors,
x [tokens, d_model], gate_up [experts, 2 · d_expert, d_model], down [experts, d_model, d_expert].
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mini_moe.ops import compiled, describe, moe_experts, use
from tests.benchmarks.gpu.cases import Shape, choose_experts

Mixing = Callable[[Tensor, Tensor, Tensor], Tensor]
MOST_PADDING = 4  # times the actual rows; with more padding than that, the peer is left out


class Sorted(NamedTuple):
    """Rows grouped by expert with torch's own functions, without sending anything to the host."""

    token: Tensor  # [rows]
    place: Tensor  # [tokens, top_k]: the row of each choice
    offsets: Tensor  # [experts + 1]


class Layer:
    """Inputs, weights and the incoming gradient, shared by all peers."""

    def __init__(
        self, shape: Shape, routing: str, device: str, dtype: torch.dtype = torch.bfloat16
    ) -> None:
        tokens, d_model, d_expert, experts, top_k = shape
        torch.manual_seed(0)
        make = {"device": device, "dtype": dtype}
        self.shape = shape
        self.x = torch.randn(tokens, d_model, **make).requires_grad_()
        self.grad = torch.randn(tokens, d_model, **make)
        self.gate_up = weights(experts, 2 * d_expert, d_model, **make)
        self.down = weights(experts, d_model, d_expert, **make)
        self.dense_gate_up = weights(2 * d_expert * top_k, d_model, **make)
        self.dense_down = weights(d_model, d_expert * top_k, **make)
        ids, gates = choose_experts(tokens, experts, top_k, routing)
        self.ids, self.gates = ids.to(device), gates.to(device).requires_grad_()

    def peers(self) -> dict[str, Callable[[], Tensor]]:
        """Return forward passes by name; "dense" is the ceiling."""
        ways = {
            "mini_moe": ours,
            "PyTorch path": pytorch_path,
            "grouped_mm": grouped_mm,
            "grouped_mm, bag": grouped_mm_with_bag,
            "cuBLAS loop": one_by_one,
            "padded bmm": padded_bmm,
            "Triton": triton,
            "transformers grouped_mm": transformers_way("grouped_mm"),
            "transformers eager": transformers_way("eager"),
        }
        if self.shape.tokens <= 16:  # it copies the weights for every choice
            ways["transformers batched_mm"] = transformers_way("batched_mm")
        calls = {name: self.bound(way) for name, way in ways.items()}
        return calls | {"dense": self.dense}

    def bound(self, way: Callable[..., Tensor]) -> Callable[[], Tensor]:
        return lambda: way(self.x, self.ids, self.gates, self.gate_up, self.down)

    def dense(self) -> Tensor:
        """A SwiGLU network as wide as a token's active experts together."""
        return F.linear(swiglu(F.linear(self.x, self.dense_gate_up)), self.dense_down)

    def leaves(self, name: str) -> list[Tensor]:
        """Return the tensors that gradients are taken of."""
        if name == "dense":
            return [self.x, self.dense_gate_up, self.dense_down]
        return [self.x, self.gates, self.gate_up, self.down]

    def calls(self, backward: bool) -> dict[str, Callable[[], object]]:
        """Return calls of a forward pass without gradients, or of both passes with fresh ones."""
        peers = self.peers()
        if not backward:
            return {name: torch.no_grad()(peer) for name, peer in peers.items()}
        return {name: self.both_passes(name, peer) for name, peer in peers.items()}

    def both_passes(
        self, name: str, peer: Callable[[], Tensor]
    ) -> Callable[[], tuple[Tensor, ...]]:
        return lambda: torch.autograd.grad(peer(), self.leaves(name), self.grad)


def weights(*shape: int, **make) -> Tensor:
    """Draw normal weights, scaled so that activations keep their size."""
    return torch.randn(*shape, **make).mul_(shape[-1] ** -0.5).requires_grad_()


def swiglu(both: Tensor) -> Tensor:
    gate, up = both.chunk(2, dim=-1)
    return F.silu(gate) * up


def sorted_rows(ids: Tensor, experts: int) -> Sorted:
    flat = ids.flatten()
    order = flat.argsort(stable=True)
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=ids.device)
    ends = torch.arange(experts + 1, device=ids.device)
    offsets = torch.searchsorted(flat[order], ends)
    return Sorted(order // ids.shape[1], place.view(ids.shape), offsets)


def mix(rows: Tensor, place: Tensor, gates: Tensor) -> Tensor:
    """Σ_k gates[t, k] · rows[place[t, k]] as a batch of small products."""
    return torch.bmm(gates[:, None].to(rows.dtype), rows[place])[:, 0]


def bag(rows: Tensor, place: Tensor, gates: Tensor) -> Tensor:
    """The same in one kernel that writes no gathered rows, like the package's PyTorch path."""
    return F.embedding_bag(place, rows, per_sample_weights=gates.to(rows.dtype), mode="sum")


def ours(x: Tensor, ids: Tensor, gates: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """The layer as models of this package call it. Raises: ValueError without GPU kernels."""
    if x.is_cuda and not compiled.serves_experts(x, gates, len(down)):
        raise ValueError(describe())
    return moe_experts(x, ids, gates, gate_up.unflatten(1, (2, -1)), down)


def pytorch_path(x: Tensor, ids: Tensor, gates: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """The same without the compiled kernels."""
    with use("pytorch"):
        return moe_experts(x, ids, gates, gate_up.unflatten(1, (2, -1)), down)


def grouped_mm(
    x: Tensor, ids: Tensor, gates: Tensor, gate_up: Tensor, down: Tensor, mixing: Mixing = mix
) -> Tensor:
    """torch's grouped products around torch's sort, gather and mixing."""
    rows = sorted_rows(ids, len(down))
    ends = rows.offsets[1:].int()
    both = F.grouped_mm(x[rows.token], gate_up.transpose(1, 2), offs=ends)
    out = F.grouped_mm(swiglu(both), down.transpose(1, 2), offs=ends)
    return mixing(out, rows.place, gates)


grouped_mm_with_bag = partial(grouped_mm, mixing=bag)


def one_by_one(x: Tensor, ids: Tensor, gates: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """Expert by expert, each a plain product: cuBLAS does all the work."""
    rows = sorted_rows(ids, len(down))
    parts = x[rows.token].split(rows.offsets.diff().tolist())
    every = zip(parts, gate_up.unbind(), down.unbind(), strict=True)
    out = [F.linear(swiglu(F.linear(part, both)), back) for part, both, back in every]
    return mix(torch.cat(out), rows.place, gates)


def padded_bmm(x: Tensor, ids: Tensor, gates: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """Pad every expert to as many rows as the busiest one, so that one batched product suffices.

    Raises: ValueError if that is more than MOST_PADDING times the actual rows.
    """
    experts, rows = len(down), sorted_rows(ids, len(down))
    capacity = int(rows.offsets.diff().max())
    if experts * capacity > MOST_PADDING * ids.numel():
        raise ValueError(f"padding makes {experts * capacity / ids.numel():.1f} times the rows")
    spot = rows.place + (ids * capacity - rows.offsets[ids])  # expert · capacity + rank
    by_row = torch.empty_like(rows.token)
    by_row[rows.place.flatten()] = spot.flatten()
    padded = x.new_zeros(experts * capacity, x.shape[1]).index_copy(0, by_row, x[rows.token])
    both = torch.bmm(padded.view(experts, capacity, -1), gate_up.transpose(1, 2))
    out = torch.bmm(swiglu(both), down.transpose(1, 2))
    return mix(out.flatten(0, 1), spot, gates)


def triton(x: Tensor, ids: Tensor, gates: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """A Triton kernel of this project, forward only. Raises: ValueError without Triton."""
    if torch.is_grad_enabled():
        raise ValueError("forward pass only")
    try:
        from tests.benchmarks.gpu.peers import triton_experts
    except ImportError as problem:
        raise ValueError(f"no Triton here: {problem}") from None
    return triton_experts.layer(x, sorted_rows(ids, len(down)), gates, gate_up, down)


def transformers_way(implementation: str) -> Callable[..., Tensor]:
    """transformers' DeepSeek-V3 experts with one of its implementations and our weights."""
    made: list[torch.nn.Module] = []

    def call(x: Tensor, ids: Tensor, gates: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
        if not made:
            made.append(transformers_experts(implementation, gate_up, down))
        return made[0](x, ids, gates)

    return call


def transformers_experts(implementation: str, gate_up: Tensor, down: Tensor) -> torch.nn.Module:
    """transformers' module without weights of its own."""
    from transformers import DeepseekV3Config
    from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3Experts

    config = DeepseekV3Config(
        hidden_size=gate_up.shape[2],
        moe_intermediate_size=down.shape[2],
        n_routed_experts=len(down),
        num_local_experts=len(down),
    )
    config._experts_implementation = implementation
    with torch.device("meta"):
        module = DeepseekV3Experts(config)
    del module.gate_up_proj, module.down_proj
    module.gate_up_proj, module.down_proj = gate_up, down
    return module
