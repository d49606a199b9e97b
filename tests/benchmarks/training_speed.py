"""Training tokens per second: this package and transformers' DeepseekV3ForCausalLM, same sizes.

12.3 million parameters (`presets.small()`), batches of 16 × 256 tokens, AdamW (fused) for all.
Every model runs in its own process, and they alternate step by step. transformers is measured with
each of its two expert implementations, in float32 and under bfloat16 autocast; the ratio is to the
best of them. Our model is also measured without the compiled kernels. "compiled" calls
`layer.compile()` on every block of both, which needs a C++ compiler and half a minute before the
first step.
"""

import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from itertools import cycle
from multiprocessing.connection import Connection

import torch
import torch.nn.functional as F
import transformers
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

from mini_moe import Transformer, presets
from mini_moe.config import TrainConfig
from mini_moe.hf_config import config_to_hf
from mini_moe.ops import use
from mini_moe.training.losses import training_losses
from mini_moe.training.speed import flops_per_token, keep_freed_memory, matmul_peak
from tests.benchmarks.common import report, spread

BATCH, SEQ = 16, 256
BATCHES = 20  # a single batch would be memorised, with extreme logits
WITHOUT_KERNELS = "mini_moe without compiled kernels"


def main(rounds: int = 9) -> None:
    """Measure, print, write results/training_speed.json."""
    peak = {"fp32": matmul_peak(torch.float32), "bf16": matmul_peak(torch.bfloat16)}
    kinds = ("fp32", "bf16", "bf16 compiled")
    names = ("mini_moe", "transformers eager", "transformers grouped_mm")
    peers = [(name, kind) for name in names for kind in kinds]
    peers[3:3] = [(WITHOUT_KERNELS, kind) for kind in kinds[:2]]
    seconds = steps_in_turn(peers, rounds)
    speeds = {name: spread([BATCH * SEQ / s for s in values]) for name, values in seconds.items()}
    best = max(v["median"] for name, v in speeds.items() if name.startswith("transformers"))
    flops = flops_per_token(Transformer(presets.small()), SEQ)
    rows = [
        {
            "peer": name,
            "tokens/s": round(v["median"]),
            "min": round(v["min"]),
            "max": round(v["max"]),
            "× best transformers": round(v["median"] / best, 2),
            "% of matmul peak": round(
                100 * v["median"] * flops / peak["bf16" if "bf16" in name else "fp32"], 1
            ),
        }
        for name, v in speeds.items()
    ]
    gflops = {kind: round(value / 1e9) for kind, value in peak.items()}
    report(
        "training_speed",
        "python -m tests.benchmarks.run training_speed",
        rows,
        matmul_peak_gflops=gflops,
        flops_per_token=flops,
        transformers=transformers.__version__,
    )


def steps_in_turn(peers: list[tuple[str, str]], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of `rounds` steps per peer, each in its own process, alternating."""
    context = multiprocessing.get_context("spawn")
    workers = {}
    for peer in peers:
        here, there = context.Pipe()
        context.Process(target=work, args=(there, *peer), daemon=True).start()
        here.recv()  # built and warm
        workers[" ".join(peer)] = here
    seconds: dict[str, list[float]] = {name: [] for name in workers}
    for _ in range(rounds):
        for name, worker in workers.items():
            worker.send("step")
            seconds[name].append(worker.recv())
    for worker in workers.values():
        worker.send("end")
    return seconds


def work(connection: Connection, name: str, kind: str) -> None:
    """Run a peer's process: build, take three steps, then one per message."""
    transformers.logging.set_verbosity_error()
    keep_freed_memory()
    torch.manual_seed(0)
    batches = torch.randint(presets.small().vocab_size, (BATCHES, BATCH, SEQ + 1)).unbind()
    if name.startswith("mini_moe"):
        model = Transformer(presets.small())
        step = ours(model, cycle(batches), kind != "fp32")
        blocks = model.layers
    else:
        model = reference_model(name.removeprefix("transformers "))
        step = theirs(model, cycle(batches), kind != "fp32")
        blocks = model.model.layers
    if kind.endswith("compiled"):
        for block in blocks:
            block.compile()
    with use("pytorch") if name == WITHOUT_KERNELS else nullcontext():
        for _ in range(3):
            step()
        connection.send("ready")
        while connection.recv() == "step":
            start = time.perf_counter()
            step()
            connection.send(time.perf_counter() - start)


def ours(model: Transformer, batches: Iterator[torch.Tensor], bf16: bool) -> Callable[[], None]:
    """Take one training step of this package, including balance loss and routing record."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    config = TrainConfig()

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = training_losses(model, next(batches), config, []).total
        finish(loss, optimizer)

    return step


def reference_model(experts: str) -> DeepseekV3ForCausalLM:
    """Return transformers' model with the sizes of ours."""
    content = config_to_hf(presets.small())
    settings = {k: v for k, v in content.items() if k not in ("architectures", "model_type")}
    return DeepseekV3ForCausalLM._from_config(
        DeepseekV3Config(**settings), experts_implementation=experts
    )


def theirs(
    model: DeepseekV3ForCausalLM, batches: Iterator[torch.Tensor], bf16: bool
) -> Callable[[], None]:
    """Take one training step of transformers' model."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)

    def step() -> None:
        tokens = next(batches)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = model(input_ids=tokens[:, :-1]).logits
            loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        finish(loss, optimizer)

    return step


def finish(loss: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
    """Compute gradients and update, the same for every peer."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
