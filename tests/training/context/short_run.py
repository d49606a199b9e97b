"""Shared by the tests of longer contexts: a small model and two short phases."""

import torch

from mini_moe import TrainConfig, Transformer
from mini_moe.training.context import Phase
from tests.helpers import small_config

PHASES = (
    Phase(steps=3, seq_len=80, texts=1, rows=2),
    Phase(steps=2, seq_len=128, texts=1, rows=1),
)
CONFIG = TrainConfig(bf16=False, warmup_steps=1)


def fresh(corpus, seed=0, **changes):
    config = small_config(vocab_size=corpus.tokenizer.vocab_size, max_seq_len=128, **changes)
    torch.manual_seed(seed)
    return Transformer(config)
