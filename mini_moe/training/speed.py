"""Measure how fast a device multiplies, and how much of that a training step uses."""

import ctypes
import statistics
import sys
import time

import torch

from mini_moe.config import ModelConfig
from mini_moe.device import CPU, wait_for
from mini_moe.model import Transformer

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # parameters of glibc's mallopt


def matmul_peak(
    dtype: torch.dtype, device: torch.device = CPU, *, size: int | None = None, repeats: int = 7
) -> float:
    """Return the FLOP/s of a square matrix product, the median of several; takes about 0.1 s.

    The size is 1024 on a CPU and 4096 elsewhere, where smaller products measure launch overhead.
    """
    size = size or (1024 if device.type == "cpu" else 4096)
    numbers = torch.Generator(device).manual_seed(0)
    left, right = torch.randn(2, size, size, generator=numbers, device=device).to(dtype)
    out = torch.empty(size, size, dtype=dtype, device=device)
    seconds = []
    for _ in range(repeats + 2):
        wait_for(device)
        start = time.perf_counter()
        torch.mm(left, right, out=out)
        wait_for(device)
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / statistics.median(seconds[2:])


def bf16_is_faster(device: torch.device = CPU) -> bool:
    """Return whether a device multiplies bfloat16 at least 1.5 times as fast as float32."""
    return matmul_peak(torch.bfloat16, device) > 1.5 * matmul_peak(torch.float32, device)


def flops_per_token(model: Transformer, seq_len: int) -> float:
    """Return the FLOPs of training on one token: forward, and twice that for backward.

    2 per active weight except the embedding lookup, plus causal attention over half the sequence on
    average; 250 GFLOP for DeepSeek-V3 at 4,096 tokens. Source: Kaplan et al., arXiv 2001.08361
    §2.1.
    """
    config = model.config
    _, active = model.count_parameters()
    if not config.tie_embeddings:
        active -= config.vocab_size * config.d_model
    for module in model.mtp:
        active += _active_mtp(module, config)
    layers = config.n_layers + config.n_mtp_layers
    widths = config.n_heads * (config.qk_head_dim + config.v_head_dim)
    attention = layers * 2 * widths * (seq_len + 1) / 2
    return 3 * (2 * active + attention)


def _active_mtp(module: torch.nn.Module, config: ModelConfig) -> int:
    held = sum(p.numel() for p in module.parameters()) + config.vocab_size * config.d_model
    if config.n_moe_layers:
        expert = 3 * config.d_model * config.d_expert
        held -= (config.n_routed_experts - config.top_k) * expert
    return held


def keep_freed_memory() -> None:
    """Ask glibc to reuse freed memory instead of returning it to the system after every step.

    Every step allocates the same large tensors, and the operating system would have to zero fresh
    pages each time. Affects the whole process; does nothing without glibc.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return
    mallopt(M_MMAP_THRESHOLD, 1 << 30)
    mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
