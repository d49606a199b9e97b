"""Shared by the tests: one small configuration, one error measure, one table of tolerances."""

from collections.abc import Iterator
from contextlib import contextmanager

import jaxtyping
import torch
from torch import Tensor

from mini_moe.config import ModelConfig
from mini_moe.model import Transformer

# Largest accepted ‖actual − expected‖ / ‖expected‖ by computation type, for one operation and for a
# chain of them, such as attention, a whole model or a gradient through it.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 1e-2}
CHAIN_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """‖actual − expected‖ / ‖expected‖ over all elements: no wrong element goes unnoticed."""
    actual, expected = actual.detach().double(), expected.detach().double()
    return ((actual - expected).norm() / expected.norm().clamp(min=1e-300)).item()


def small_config(**changes) -> ModelConfig:
    """A V3-style model that runs in milliseconds: one dense layer and two with eight experts."""
    fields = {
        "vocab_size": 61,
        "d_model": 32,
        "n_layers": 3,
        "n_dense_layers": 1,
        "d_ff": 48,
        "max_seq_len": 64,
        "n_heads": 2,
        "kv_lora_rank": 16,
        "qk_nope_head_dim": 8,
        "qk_rope_head_dim": 4,
        "v_head_dim": 8,
        "n_routed_experts": 8,
        "n_shared_experts": 1,
        "top_k": 2,
        "d_expert": 16,
        "route_scale": 2.5,
    }
    return ModelConfig(**fields | changes)


def small_model(seed: int = 0, **changes) -> Transformer:
    """`small_config` with random weights, norms and expert biases, in evaluation mode."""
    torch.manual_seed(seed)
    model = Transformer(small_config(**changes))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
        for buffer in model.buffers():
            buffer.normal_(std=0.1)
    return model.eval()


def random_tokens(config: ModelConfig, batch: int = 2, seq: int = 12, seed: int = 0) -> Tensor:
    """Token ids [batch, seq]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, config.vocab_size, (batch, seq), generator=generator)


@contextmanager
def without_shape_hook() -> Iterator[None]:
    """Bypass the jaxtyping hook, so that bad arguments reach the package's own checks."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)
