"""Absorbed attention costs what its formula says, and is used exactly when it is cheaper."""

import dataclasses
import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mini_moe import presets
from mini_moe.inference import Decoder, LatentCache
from mini_moe.inference.engine.absorption import (
    absorbed_flops,
    absorbed_is_cheaper,
    absorbed_output,
    absorbed_query,
    crossover,
    naive_flops,
)
from mini_moe.ops import use
from tests.helpers import random_tokens, relative_error, small_config, small_model

DENSE = {"n_layers": 1, "n_dense_layers": 1}


def counted(model, before, new, absorbed):
    """Return the FLOPs that torch counts in one layer's heads, without the cache projection."""
    with use("pytorch"):  # torch counts only its own products
        config, decoder = model.config, Decoder(model)
        embedded = model.embed_tokens(random_tokens(config, 1, 1))
        with torch.no_grad():  # makes the absorbed matrices
            decoder.run(decoder.stack, embedded, LatentCache(model, 1))
    cache = LatentCache(model, 1)
    tokens = random_tokens(config, 1, before + new)
    decoder.prefill([tokens[0, :before].tolist()], cache)
    rest = 2 * new * 3 * config.d_model * config.d_ff
    rest += 2 * new * config.d_model * (config.kv_lora_rank + config.qk_rope_head_dim)
    if config.q_lora_rank:
        rest += 2 * new * config.d_model * config.q_lora_rank
    embedded = model.embed_tokens(tokens[:, before:])
    with use("pytorch"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        decoder.run(decoder.stack, embedded, cache, absorbed)
    return counter.get_total_flops() - rest


@pytest.mark.parametrize("changes", [{}, {"q_lora_rank": 12}, {"v_head_dim": 20, "n_heads": 3}])
@pytest.mark.parametrize(("before", "new"), [(20, 1), (30, 7), (3, 40)])
def test_flops_match_the_formulas(before, new, changes):
    model = small_model(**DENSE | changes)
    keys = before + new
    naive = naive_flops(model.config, new, keys)
    assert counted(model, before, new, absorbed=False) == naive
    assert counted(model, before, new, absorbed=True) == absorbed_flops(model.config, new, keys)


@pytest.mark.parametrize("preset", [presets.tiny, presets.small, presets.deepseek_v3])
@pytest.mark.parametrize("keys", [1, 10, 100, 512, 4096, 131_072])
def test_absorption_switches_at_the_crossover_of_the_formulas(preset, keys):
    config = preset()
    least = crossover(config, keys)
    for new in (1, math.floor(least), math.ceil(least), math.floor(least) + 1, keys):
        if 1 <= new <= keys:
            cheaper = absorbed_flops(config, new, keys) <= naive_flops(config, new, keys)
            assert absorbed_is_cheaper(config, new, keys) == cheaper
            if new != least:
                assert cheaper == (new < least)


def test_long_contexts_cross_at_64_and_171_tokens():
    assert crossover(presets.tiny(), 10**9) == pytest.approx(64, abs=0.01)
    assert crossover(presets.deepseek_v3(), 10**9) == pytest.approx(512 / 3, abs=0.01)


def test_one_token_is_absorbed_and_a_long_prompt_is_not():
    config = presets.tiny()
    assert absorbed_is_cheaper(config, 1, 512) and not absorbed_is_cheaper(config, 256, 512)


def test_a_latent_no_wider_than_keys_is_always_absorbed():
    config = dataclasses.replace(presets.tiny(), kv_lora_rank=16)
    assert crossover(config, 512) == math.inf and absorbed_is_cheaper(config, 512, 512)


@torch.no_grad()
@pytest.mark.parametrize("q_lora_rank", [None, 12])
def test_absorbed_matrices_give_the_same_scores_and_outputs(q_lora_rank):
    config = small_config(q_lora_rank=q_lora_rank)
    attention = small_model(q_lora_rank=q_lora_rank).layers[0].self_attn.double()
    rank, nope = config.kv_lora_rank, config.qk_nope_head_dim
    source, latent = torch.randn(config.q_lora_rank or config.d_model), torch.randn(rank)
    source, latent = source.double(), latent.double()
    made_by = attention.q_proj if q_lora_rank is None else attention.q_b_proj
    query = made_by(source).view(config.n_heads, -1)
    heads = attention.kv_b_proj(latent).view(config.n_heads, -1)
    key, value = heads[:, :nope], heads[:, nope:]
    absorbed = (absorbed_query(attention) @ source).view(config.n_heads, -1)
    scores = (query[:, :nope] * key).sum(dim=-1) * attention.scale
    assert relative_error(absorbed[:, :rank] @ latent, scores) < 1e-12
    assert relative_error(absorbed[:, rank:], query[:, nope:] * attention.scale) < 1e-12
    mixed = absorbed_output(attention) @ latent.repeat(config.n_heads)
    assert relative_error(mixed, attention.o_proj(value.flatten())) < 1e-12
