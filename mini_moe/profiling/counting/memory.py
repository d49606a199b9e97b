"""Where a training step's memory goes: predicted without allocating it, and measured."""

import copy
import gc
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.profiler import ProfilerActivity, profile

from mini_moe.config import ModelConfig, TrainConfig
from mini_moe.device import as_device
from mini_moe.model import Transformer
from mini_moe.profiling.counting.ledger import Ledger, SavedByModule
from mini_moe.profiling.counting.table import KINDS, config_of, count, kind_of, with_unit
from mini_moe.random_numbers import OwnRandomNumbers
from mini_moe.training.losses import training_losses
from mini_moe.training.optimizer import build_optimizers
from mini_moe.training.speed import bf16_is_faster
from mini_moe.training.step import clip_gradients

# Without this, torch's profiler writes two lines to stderr each time it starts and stops.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")
PHASES = ("forward", "backward", "optimizer")


@dataclass(frozen=True, kw_only=True)
class StepMemory:
    """Bytes of one training step after the first, so that the optimizer's state exists.

    Weights, optimizer state and batch exist all the time. Activations accumulate during the forward
    pass and are released during the backward pass, while gradients appear. So everything never
    exists at the same time; `peaks` has the maximum of each phase.
    """

    weights: int  # parameters and buffers
    optimizer: int  # AdamW: two numbers per weight; Muon: one
    batch: int  # token ids
    activations: int  # at the end of the forward pass, kept for the backward pass or the log
    gradients: int  # at the end of the backward pass, until the next step begins
    peaks: Mapping[str, int]  # of "forward", "backward" and "optimizer"
    saved: Mapping[str, int] = field(default_factory=dict)  # activations by kind; predicted only

    @property
    def peak(self) -> int:
        """Most bytes in use at any moment."""
        return max(self.peaks.values())

    @property
    def temporary(self) -> int:
        """Bytes at the peak beyond weights, state, batch and activations (or gradients)."""
        standing = self.weights + self.optimizer + self.batch
        if self.peaks["optimizer"] == self.peak:
            return self.peak - standing - self.gradients
        return self.peak - standing - self.activations

    def __str__(self) -> str:
        lines = {name: getattr(self, name) for name in ("weights", "optimizer", "batch")}
        lines["activations"] = self.activations
        lines |= {f"  {kind}": size for kind, size in self.saved.items()}
        lines["gradients"] = self.gradients
        lines |= {f"peak, {phase}": size for phase, size in self.peaks.items()}
        return "\n".join(f"{name:<26}{with_unit(size):>10}B" for name, size in lines.items())


def predict_memory(
    model: ModelConfig | Transformer, config: TrainConfig, *, device: str = "cpu"
) -> StepMemory:
    """Predict a training step's memory by running it on tensors that have shapes but no data.

    Two steps run on such tensors (torch's FakeTensorMode), while a ledger tracks every storage
    from allocation to release. Nothing of the model's size is allocated, so DeepSeek-V3 works on a
    laptop. Scratch memory inside kernels and the allocator's rounding are left out. For bfloat16
    products on a CPU, oneDNN uses such scratch memory: 0.04 to 0.2 MB at widths up to 3000 with one
    thread, which is noticeable in models of one or two megabytes.

    Raises: ValueError if seq_len exceeds max_seq_len, for an unavailable device, or for a model
    that is neither a configuration nor a Transformer.
    """
    shape, dtype = config_of(model)
    bf16 = _checked(shape, config, device)
    with FakeTensorMode(), Ledger() as ledger, torch.device(device), default_dtype(dtype):
        rehearsed = Transformer(shape)
        if isinstance(model, Transformer):
            for fake, real in zip(rehearsed.parameters(), model.parameters(), strict=True):
                fake.requires_grad_(real.requires_grad)
        object.__setattr__(rehearsed, "check_tokens", lambda *_: None)  # it would need real numbers
        optimizers = build_optimizers(rehearsed, config, bf16)
        tokens = torch.zeros(_batch_shape(shape, config), dtype=torch.long)
        standing = _after_one_step(rehearsed, optimizers, tokens, config, bf16)
        alive, peaks = {}, {}
        ledger.restart()
        saved = SavedByModule(rehearsed)
        with saved:
            phases = training_phases(rehearsed, optimizers, tokens, config, bf16)
            for phase in phases:
                alive[phase], peaks[phase] = ledger.alive, ledger.peak
                ledger.restart()
        return _step_memory(rehearsed, standing, alive, peaks, _by_kind(shape, saved.bytes))


def measure_memory(
    model: ModelConfig | Transformer, config: TrainConfig, *, device: str = "cpu"
) -> StepMemory:
    """Measure a training step's memory on random tokens, as reported by torch's allocator.

    On the CPU the profiler reports every allocation and release; on CUDA the allocator tracks the
    peak itself. A copy of the model is used, so the given one is not trained. Scratch memory that
    compiled kernels allocate themselves is not torch's and not counted.

    Raises: ValueError as `predict_memory` does, or if the model is on the meta device.
    """
    shape, dtype = config_of(model)
    bf16 = _checked(shape, config, device)
    with OwnRandomNumbers(config.seed):
        measured = copy.deepcopy(model) if isinstance(model, Transformer) else Transformer(shape)
        if measured.embed_tokens.weight.is_meta:
            raise ValueError("model: parameters with numbers expected, got the meta device")
        measured = measured.to(device, dtype).train()
        tokens = torch.randint(shape.vocab_size, _batch_shape(shape, config)).to(device)
    optimizers = build_optimizers(measured, config, bf16)
    standing = _after_one_step(measured, optimizers, tokens, config, bf16)
    alive, peaks = {}, {}
    now = sum(standing.values())
    phases = training_phases(measured, optimizers, tokens, config, bf16)
    for _ in PHASES:
        phase, change, most = _allocations(phases, tokens.device)
        alive[phase], peaks[phase] = now + change, now + most
        now += change
    return _step_memory(measured, standing, alive, peaks, {})


def training_phases(
    model: Transformer,
    optimizers: list[torch.optim.Optimizer],
    tokens: Tensor,
    config: TrainConfig,
    bf16: bool,
) -> Iterator[str]:
    """Run one training step as `train` does, yielding the name of each phase after it."""
    routings: list = []
    with torch.autocast(tokens.device.type, torch.bfloat16, enabled=bf16):
        losses = training_losses(model, tokens, config, routings)
    yield "forward"
    losses.total.backward()
    yield "backward"
    clip_gradients(model, config)
    for optimizer in optimizers:
        optimizer.step()
    yield "optimizer"


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Create new parameters with this dtype: fake ones can't be converted afterwards."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _allocations(phases: Iterator[str], device: torch.device) -> tuple[str, int, int]:
    """Run the next phase; return its name, the change in allocated bytes, and the peak."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        phase = next(phases)
        torch.cuda.synchronize(device)
        most = torch.cuda.max_memory_allocated(device)
        return phase, torch.cuda.memory_allocated(device) - before, most - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        phase = next(phases)
    events = recorded.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    now = most = 0
    for _, size in changes:
        now += size
        most = max(most, now)
    return phase, now, most


def _after_one_step(model, optimizers, tokens, config, bf16) -> dict[str, int]:
    """Run a step, so that optimizer state exists; return the bytes that persist between steps."""
    for _ in training_phases(model, optimizers, tokens, config, bf16):
        pass
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    states = [value for o in optimizers for s in o.state.values() for value in s.values()]
    return {
        "weights": _n_bytes(*model.parameters(), *model.buffers()),
        "optimizer": _n_bytes(*(value for value in states if isinstance(value, Tensor))),
        "batch": tokens.nbytes,
    }


def _step_memory(
    model: Transformer, standing: dict[str, int], alive: dict[str, int], peaks: dict[str, int],
    saved: dict[str, int],
) -> StepMemory:  # fmt: skip
    """Build the result: activations are what forward added; those not saved are for the log."""
    activations = alive["forward"] - sum(standing.values())
    if saved:
        saved = saved | {"routing, for the log": activations - sum(saved.values())}
    return StepMemory(
        **standing,
        activations=activations,
        gradients=_n_bytes(*(p.grad for p in model.parameters() if p.grad is not None)),
        peaks=peaks,
        saved=saved,
    )


def _by_kind(config: ModelConfig, by_path: dict[str, int]) -> dict[str, int]:
    """Return saved bytes by the table's kinds; bytes that no module saved belong to the losses."""
    rows = count(config, seq=1).modules
    kinds: dict[str, int] = defaultdict(int)
    for path, size in by_path.items():
        found = {kind_of(r) for r in rows if path and f"{r.name}.".startswith(f"{path}.")}
        exact = {kind_of(r) for r in rows if r.name == path}
        (kind,) = exact or (found if len(found) == 1 else {"loss"})
        kinds[kind] += size
    return {kind: kinds[kind] for kind in (*KINDS, "loss") if kinds[kind]}


def _checked(shape: ModelConfig, config: TrainConfig, device: str) -> bool:
    """Check length and device, and return whether products run in bfloat16."""
    found = as_device(device)
    if config.seq_len > shape.max_seq_len:
        raise ValueError(
            f"seq_len: at most max_seq_len={shape.max_seq_len} expected, got {config.seq_len}"
        )
    return bf16_is_faster(found) if config.bf16 is None else config.bf16


def _batch_shape(shape: ModelConfig, config: TrainConfig) -> tuple[int, int]:
    return config.batch_size, config.seq_len + 1 + shape.n_mtp_layers


def _n_bytes(*tensors: Tensor | nn.Parameter) -> int:
    return sum({t.untyped_storage()._cdata: t.nbytes for t in tensors}.values())
