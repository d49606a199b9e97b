"""Record which part of a model is running at each moment, as ranges around the parts.

Modules are named by hooks, and a few functions by temporary wrappers. The backward pass has no
modules; but every node of the graph has the sequence number it got in the forward pass, so it
belongs to the part that was running then.
"""

import functools
import importlib
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._C._autograd import _get_sequence_nr as next_node
from torch.autograd.profiler import record_function

from mini_moe.model.attention import MultiHeadLatentAttention
from mini_moe.model.experts import Experts
from mini_moe.model.layers import RMSNorm, SwiGLU
from mini_moe.model.moe import MoE
from mini_moe.model.mtp import MultiTokenPrediction
from mini_moe.model.router import Router
from mini_moe.model.transformer import Block
from mini_moe.ops.context import autocast_dtype

KINDS = (
    "batch", "embedding", "norms", "attention", "router", "sort", "experts", "combine", "shared",
    "dense FFN", "residual", "MTP", "head", "loss", "clip", "optimizer", "waiting", "other",
)  # fmt: skip
STEP = "step"
TURN = threading.RLock()
BY_CLASS = {
    nn.Embedding: "embedding",
    RMSNorm: "norms",
    MultiHeadLatentAttention: "attention",
    Router: "router",
    Experts: "experts",
    MoE: "combine",  # what the layer itself adds up
    Block: "residual",
    MultiTokenPrediction: "MTP",
}


class Part(NamedTuple):
    """A part of a model: its kind of work, and its path in the model."""

    kind: str
    path: str


def gather_kind(values: Any, place: Any, weights: Any = None) -> str:
    """Return what `gather_sum` does here: spread rows over experts, or add up each token's rows."""
    return "sort" if weights is None and place.shape[1] == 1 else "combine"


# (module, name of a function in it, its kind or a function that derives it from the arguments)
FUNCTIONS: tuple[tuple[str, str, str | Callable[..., str]], ...] = (
    ("mini_moe.training.loop", "sample_batch", "batch"),
    ("mini_moe.training.loop", "training_losses", "loss"),
    ("torch.nn.utils", "clip_grad_norm_", "clip"),
    ("mini_moe.ops.sorted_experts", "sort_rows", "sort"),
    ("mini_moe.ops.sorted_experts", "gather_sum", gather_kind),
)


class Routed(NamedTuple):
    """The arguments of one call of an experts layer."""

    expert_ids: Tensor
    gates: Tensor
    d_model: int
    n_experts: int
    dtype: torch.dtype  # of the products


class Recording:
    """The ranges that were entered, and which autograd sequence numbers fell into each."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()  # the thread whose modules are recorded
        self.routed: list[Routed] = []  # one per call of an experts layer
        self.parts: dict[str, Part] = {}  # name of a range in the trace → the part
        self._open: list[tuple[str, record_function]] = []
        self._changes: list[tuple[int, str]] = []  # from this node on, this range was innermost

    def enter(self, part: Part) -> None:
        name = f"{part.path} ({part.kind})"
        self.parts[name] = part
        marker = record_function(name)
        marker.__enter__()
        self._open.append((name, marker))
        self._changes.append((next_node(), name))

    def leave(self) -> None:
        _, marker = self._open.pop()
        marker.__exit__(None, None, None)
        self._changes.append((next_node(), self._open[-1][0] if self._open else ""))

    @contextmanager
    def range(self, part: Part) -> Iterator[None]:
        depth = len(self._open)
        self.enter(part)
        try:
            yield
        finally:
            while len(self._open) > depth:  # including ranges that an interrupt left open
                self.leave()

    def maker(self, node: int) -> Part:
        """Return the part that was running when autograd numbered this node."""
        place = bisect_right(self._changes, node, key=lambda change: change[0]) - 1
        return self.parts.get(self._changes[place][1], OTHER) if place >= 0 else OTHER


OTHER = Part("other", STEP)


def kinds_of(model: nn.Module) -> dict[str, tuple[nn.Module, Part]]:
    """Return the modules to be timed, by path, each with its part."""
    found = {}
    for path, module in model.named_modules():
        kind = BY_CLASS.get(type(module))
        if isinstance(module, SwiGLU):
            kind = "shared" if path.endswith("shared_experts") else "dense FFN"
        if path == "lm_head":
            kind = "head"
        if kind:
            found[path] = module, Part(kind, path)
    return found


@contextmanager
def recording(model: nn.Module) -> Iterator[Recording]:
    """Record the parts of a model inside the context; afterwards everything is restored.

    Functions are wrapped process-wide, so a recording in another thread waits for this one to end.
    """
    record = Recording()
    handles, replaced = [], []
    TURN.acquire()
    try:
        for module, part in kinds_of(model).values():
            begin = functools.partial(_begin, record, part)
            handles.append(module.register_forward_pre_hook(begin))
            handles.append(module.register_forward_hook(functools.partial(_end, record)))
        for place, name, kind in FUNCTIONS:
            home = importlib.import_module(place)
            original = getattr(home, name)
            replaced.append((home, name, original))
            setattr(home, name, _named(record, original, name, kind))
        yield record
    finally:
        for handle in handles:
            handle.remove()
        for home, name, original in replaced:
            setattr(home, name, original)
        TURN.release()


def _begin(record: Recording, part: Part, module: nn.Module, inputs: tuple) -> None:
    if threading.get_ident() != record.thread:
        return
    if isinstance(module, Experts) and len(inputs) == 3:
        x, ids, gates = (tensor.detach() for tensor in inputs)
        dtype = autocast_dtype(x) or x.dtype
        record.routed.append(Routed(ids, gates, x.shape[-1], len(module.down_proj), dtype))
    record.enter(part)


def _end(record: Recording, *_: Any) -> None:
    if threading.get_ident() == record.thread:
        record.leave()


def _named(record: Recording, function: Callable, name: str, kind: str | Callable) -> Callable:
    @functools.wraps(function)
    def run(*arguments: Any, **named: Any) -> Any:
        which = kind if isinstance(kind, str) else kind(*arguments, **named)
        with record.range(Part(which, name)):
            return function(*arguments, **named)

    return run
