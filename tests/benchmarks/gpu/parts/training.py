"""A training step of the 12-million-parameter model, with and without compiled kernels."""

from collections.abc import Callable

import torch

from mini_moe import Transformer, presets
from mini_moe.config import ModelConfig, TrainConfig
from mini_moe.ops import compiled, describe, use
from mini_moe.ops.context import Form
from mini_moe.training.losses import training_losses
from tests.benchmarks.gpu.parts.bench import Bench


def run(bench: Bench) -> None:
    """bf16 autocast, fused AdamW; the two models start from the same weights."""
    batch, seq = (2, 8) if bench.size == "tiny" else (64, 512)
    config = presets.tiny() if bench.size == "tiny" else presets.small()
    numbers = torch.Generator().manual_seed(0)
    tokens = torch.randint(config.vocab_size, (batch, seq + 1), generator=numbers)
    tokens = tokens.to(bench.device)
    calls = {
        "mini_moe": training_step(config, tokens, "compiled"),
        "PyTorch path": training_step(config, tokens, "pytorch"),
    }
    case = {"batch": batch, "seq": seq, "d_model": config.d_model, "layers": config.n_layers}
    bench.measure("training", case, calls, tokens=batch * seq, seconds=8.0)


def training_step(config: ModelConfig, tokens: torch.Tensor, form: Form) -> Callable[[], None]:
    """Return a step: losses, gradients, update."""
    torch.manual_seed(0)
    model = Transformer(config).to(tokens.device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    settings = TrainConfig()

    def step() -> None:
        if tokens.is_cuda and form == "compiled" and compiled.CUDA_WHY_NOT:
            raise ValueError(describe())
        optimizer.zero_grad(set_to_none=True)
        with use(form):
            with torch.autocast(tokens.device.type, torch.bfloat16):
                losses = training_losses(model, tokens, settings, [])
            losses.total.backward()
        optimizer.step()

    return step
