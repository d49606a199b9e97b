"""Where a step's time goes, part by part, according to torch's profiler."""

import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from torch.profiler import ProfilerActivity

from mini_moe.config import TrainConfig
from mini_moe.device import device_of, wait_for
from mini_moe.inference import KeyValueCache
from mini_moe.model import Transformer
from mini_moe.profiling.timing.recording import OTHER, STEP, Part, Recording, recording
from mini_moe.profiling.timing.result import StepProfile
from mini_moe.profiling.timing.segments import segments_of
from mini_moe.profiling.timing.trace import check_writable, write_trace
from mini_moe.routing.twin import twin
from mini_moe.text import Corpus, load_corpus
from mini_moe.training.checkpoint import TrainingState
from mini_moe.training.loop import train_step
from mini_moe.training.optimizer import build_optimizers
from mini_moe.training.speed import bf16_is_faster


def profile_step(
    model: Transformer | TrainingState,
    config: TrainConfig,
    corpus: Corpus | None = None,
    *,
    steps: int = 5,
    warm_up: int = 2,
    trace: str | Path | None = None,
) -> StepProfile:
    """Time a training step by part: forward, backward and optimizer of each kind of module.

    1. Copy the model and its optimizers, so that yours are not trained by profiling.
    2. Run `warm_up` untimed steps, then alternate plain and recorded steps, `steps` of each.
    3. Split the fastest recorded step into segments; `trace` is the file to write for Perfetto.

    Steps are `training.loop.train_step` on real batches. The compiled kernels sort, multiply and
    combine in one call; in that case sorting and combining are timed separately afterwards, on the
    same choices, and subtracted from the experts' time.

    Raises: ValueError for a model on the meta device, a compiled model, or no steps; OSError,
    before the first step, if the trace can't be written.
    """
    path = None if trace is None else check_writable(trace)
    given = model.model if isinstance(model, TrainingState) else model
    check_model(given, steps, warm_up)
    corpus = load_corpus() if corpus is None else corpus
    state = copy_state(model, config)

    def step() -> None:
        train_step(state, config, corpus)

    tokens = config.batch_size * config.seq_len
    return profile_call(
        state.model, step, name="training step", tokens=tokens, bf16=state.bf16, steps=steps,
        warm_up=warm_up, trace=path,
    )  # fmt: skip


def time_steps(
    model: Transformer | TrainingState,
    config: TrainConfig,
    corpus: Corpus | None = None,
    *,
    steps: int = 3,
    warm_up: int = 1,
) -> list[float]:
    """Return the seconds of several plain training steps, run on a copy as in `profile_step`.

    Raises: ValueError for a model on the meta device, or no steps.
    """
    given = model.model if isinstance(model, TrainingState) else model
    check_model(given, steps, warm_up, compiled_too=True)
    corpus = load_corpus() if corpus is None else corpus
    state, device = copy_state(model, config), next(given.parameters()).device
    seconds = [
        seconds_of(lambda: train_step(state, config, corpus), device)
        for _ in range(warm_up + steps)
    ]
    return seconds[warm_up:]


def profile_inference(
    model: Transformer,
    tokens: Int[Tensor, "batch seq"],
    *,
    steps: int = 5,
    warm_up: int = 2,
    bf16: bool = False,
) -> tuple[StepProfile, StepProfile]:
    """Time reading a prompt (prefill) and writing one more token with a cache (decode), by part.

    `steps` is the number of timed calls of each kind.
    Raises: ValueError for a model on the meta device, no steps, or a prompt that leaves no room for
    the decoded tokens.
    """
    check_model(model, steps, warm_up)
    room, needed = model.config.max_seq_len - tokens.shape[1], 2 * (steps + warm_up)
    if room < needed:
        raise ValueError(
            f"tokens: at most {model.config.max_seq_len - needed} positions expected, since "
            f"{needed} tokens are decoded and max_seq_len={model.config.max_seq_len}; "
            f"got {tokens.shape[1]}"
        )
    cache = KeyValueCache()

    def run(ids: Tensor, cache: KeyValueCache) -> None:
        with torch.no_grad(), torch.autocast(ids.device.type, torch.bfloat16, enabled=bf16):
            model(ids, cache=cache)

    model = twin(model).eval()  # the given model keeps its mode
    options = {"bf16": bf16, "steps": steps, "warm_up": warm_up}
    prefill = profile_call(
        model, lambda: run(tokens, KeyValueCache()), name="prefill", tokens=tokens.numel(),
        **options,
    )  # fmt: skip
    run(tokens, cache)
    decode = profile_call(
        model, lambda: run(tokens[:, -1:], cache), name="decode", tokens=len(tokens), **options
    )
    return prefill, decode


def profile_call(
    model: Transformer,
    call: Callable[[], Any],
    *,
    name: str = STEP,
    tokens: int = 0,
    bf16: bool = False,
    steps: int = 5,
    warm_up: int = 2,
    trace: Path | None = None,
) -> StepProfile:
    """Time any call that runs a model, by part, on CPU or GPU.

    Hooks and wrappers are active only during recorded calls, and removed even after an error or an
    interrupt; in that case no trace is written.
    Raises: ValueError as `profile_step` does.
    """
    check_model(model, steps, warm_up)
    device = next(model.parameters()).device
    for _ in range(warm_up):
        call()
    plain, fastest = float("inf"), None
    for _ in range(steps):
        plain = min(plain, seconds_of(call, device))
        recorded = record_call(model, call, device)
        if fastest is None or recorded[0] < fastest[0]:
            fastest = recorded
    seconds, profiler, record = fastest
    events = profiler.events()
    segments = segments_of(events, record)
    compiled = any(event.name == "mini_moe::experts_forward" for event in events)
    inside = time_alone(record) if compiled and device.type == "cpu" else {}
    if trace is not None:
        write_trace(profiler, segments, trace)
    return StepProfile(
        name=name, device=device.type, threads=torch.get_num_threads(), bf16=bf16, tokens=tokens,
        seconds=seconds, plain_seconds=plain, segments=segments,
        alone=inside,
    )  # fmt: skip


def record_call(
    model: Transformer, call: Callable[[], Any], device: torch.device
) -> tuple[float, torch.profiler.profile, Recording]:
    """Record one call; return its seconds, torch's profiler, and the parts that ran."""
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with recording(model) as record, torch.profiler.profile(activities=activities) as profiler:
        with record.range(Part(OTHER.kind, STEP)):
            seconds = seconds_of(call, device)
    return seconds, profiler, record


def time_alone(record: Recording, repeats: int = 3) -> dict[str, float]:
    """Time sorting and combining separately, summed over all layers; the best of several rounds.

    The compiled kernels do both once in the forward and once in the backward pass. The backward
    pass combines without gates; that small difference is ignored here.
    """
    ops, rounds = torch.ops.mini_moe, []
    for _ in range(repeats):
        sums = {"sort": 0.0, "combine": 0.0}
        for routed in record.routed:
            start = time.perf_counter()
            _, place, *_ = ops.sort_rows(routed.expert_ids, routed.n_experts)
            sums["sort"] += time.perf_counter() - start
            rows = torch.zeros(place.numel(), routed.d_model, dtype=routed.dtype)
            start = time.perf_counter()
            ops.combine(rows, place, routed.gates.float())
            sums["combine"] += time.perf_counter() - start
        rounds.append(sums)
    return {name: min(r[name] for r in rounds) for name in rounds[0]}


def seconds_of(call: Callable[[], Any], device: torch.device) -> float:
    """Return the wall time of a call, including all work it started on the device."""
    wait_for(device)
    start = time.perf_counter()
    call()
    wait_for(device)
    return time.perf_counter() - start


def check_model(
    model: Transformer, steps: int, warm_up: int = 0, compiled_too: bool = False
) -> None:
    """Raise ValueError for a model that can't be timed, or an invalid number of steps."""
    if steps < 1:
        raise ValueError(f"steps={steps} must be at least 1")
    if warm_up < 0:
        raise ValueError(f"warm_up={warm_up} must be at least 0")
    if any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
        raise ValueError(
            "model: one with numbers expected, got the meta device, where nothing runs and there "
            "is nothing to time; count its work with mini_moe.profiling.count"
        )
    melted = any(getattr(module, "_compiled_call_impl", None) for module in model.modules())
    if melted and not compiled_too:
        raise ValueError(
            "model: parts of it are compiled, which fuses modules together; profile it before "
            "compile()"
        )


def copy_state(model: Transformer | TrainingState, config: TrainConfig) -> TrainingState:
    """Return a training state whose weights and optimizers are copies."""
    if isinstance(model, TrainingState):
        tokenizer = model.model.tokenizer
        return copy.deepcopy(model, {id(tokenizer): tokenizer})
    mine = copy.deepcopy(model, {id(model.tokenizer): model.tokenizer})
    bf16 = bf16_is_faster(device_of(mine)) if config.bf16 is None else config.bf16
    return TrainingState(mine, build_optimizers(mine, config, bf16), 0, bf16, 0.0)
