"""Stretch a model's context with YaRN, then train it a little on longer texts.

DeepSeek-V3 went from 4K to 32K to 128K tokens, 1,000 steps each, with a YaRN factor of 40 in both.
Source: DeepSeek-V3, arXiv 2412.19437 §4.3; YaRN, arXiv 2309.00071.
"""

import copy
import dataclasses
import math
from collections.abc import Callable, Sequence

import torch

from mini_moe.config import TrainConfig
from mini_moe.model import Transformer
from mini_moe.text import Corpus
from mini_moe.training.context.recall import Phase, train_recall


def stretched(model: Transformer, factor: float, max_seq_len: int | None = None) -> Transformer:
    """Return a copy that reads longer texts: same weights, YaRN's frequencies and temperature.

    The original length is the model's max_seq_len; the new one is `factor` times that unless given.
    Factor 1 leaves RoPE unchanged and only raises the limit.

    Raises: ValueError for a factor below 1, a model already extended, or a length not above the
    original.
    """
    original = model.config.max_seq_len
    if not 1 <= factor < math.inf:
        raise ValueError(f"factor={factor} must be at least 1, and finite")
    longer = round(factor * original) if max_seq_len is None else max_seq_len
    if model.config.yarn_factor != 1:
        raise ValueError(
            f"model: already extended, yarn_factor={model.config.yarn_factor}; pass the original"
        )
    if longer <= original:
        raise ValueError(
            f"factor={factor}, max_seq_len={longer}: more than the model's {original} expected"
        )
    config = dataclasses.replace(
        model.config,
        max_seq_len=longer,
        yarn_factor=float(factor),
        yarn_original_seq_len=original,
    )
    with torch.device("meta"):  # the weights bring their own values, types and device
        made = Transformer(config)
    made.load_state_dict(copy.deepcopy(model.state_dict()), assign=True)
    if config.tie_embeddings:
        made.lm_head.weight = made.embed_tokens.weight
    made.tokenizer = model.tokenizer
    return made.eval()


def extend(
    model: Transformer,
    factor: float,
    phases: Sequence[Phase],
    config: TrainConfig,
    corpus: Corpus,
    on_step: Callable[[dict], None] | None = None,
) -> tuple[Transformer, list[dict]]:
    """Stretch a copy with YaRN and train it on longer texts, phase by phase; return it and the log.

    The copy is on the model's device; its weights are float32, whatever the model's are.

    Raises: ValueError as `stretched` and `train_recall` do, or for a factor that is not above 1;
    TrainingDiverged if a loss is not finite.
    """
    if not factor > 1:
        raise ValueError(f"factor={factor} must be above 1")
    made = stretched(model, factor).float()
    return made, train_recall(made, phases, config, corpus, on_step)
