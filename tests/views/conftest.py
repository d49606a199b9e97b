"""A small model with a tokenizer, and one trace of it."""

import dataclasses

import pytest
import torch

from mini_moe import Transformer, presets, trace_routing
from mini_moe.text import default_tokenizer

SENTENCE = "Anna found a key.\n12 + 30 = 42"


@pytest.fixture(scope="session")
def model():
    small = {"d_model": 32, "d_ff": 48, "d_expert": 16, "max_seq_len": 64}
    torch.manual_seed(1)
    model = Transformer(dataclasses.replace(presets.tiny(), **small)).eval()
    model.tokenizer = default_tokenizer()
    return model


@pytest.fixture(scope="session")
def trace(model):
    return trace_routing(model, SENTENCE)
