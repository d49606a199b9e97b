"""Latent attention: what it caches, and that caching doesn't change the result."""

import pytest
import torch

from mini_moe.model.attention import MultiHeadLatentAttention
from mini_moe.model.rope import rope_rotation
from tests.helpers import CHAIN_TOLERANCE, relative_error, small_config

CPU = torch.device("cpu")


class GrowingCache:
    """The simplest cache: concatenate what each layer appends."""

    def __init__(self):
        self.held = {}

    def __len__(self):
        return max((latent.shape[1] for latent, _ in self.held.values()), default=0)

    def append(self, layer, latent, key_rope):
        if layer in self.held:
            old = self.held[layer]
            latent = torch.cat((old[0], latent), dim=1)
            key_rope = torch.cat((old[1], key_rope), dim=1)
        self.held[layer] = latent, key_rope
        return latent, key_rope


def random_attention(**changes):
    torch.manual_seed(0)
    config = small_config(**changes)
    attention = MultiHeadLatentAttention(config, layer=0)
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x = torch.randn(2, 9, config.d_model)
    return config, attention, x, rope_rotation(config, 0, 9, CPU)


def by_hand(config, attention, x, rotation):
    """Attend with one head and one query at a time, in the absorbed form, in float64."""
    attention, x = attention.double(), x.double()
    query = attention.query(x, rotation.double()).transpose(1, 2)
    latent, key_rope = attention.compress(x, rotation.double())
    per_head = config.qk_nope_head_dim + config.v_head_dim
    mixed = []
    for head in range(config.n_heads):
        rows = attention.kv_b_proj.weight[head * per_head : (head + 1) * per_head]
        up_key, up_value = rows.split([config.qk_nope_head_dim, config.v_head_dim])
        outputs = []
        for i in range(x.shape[1]):
            # absorbed: project the query down to the latent, and values up after mixing
            absorbed = query[:, head, i, : config.qk_nope_head_dim] @ up_key
            scores = torch.einsum("bc,bjc->bj", absorbed, latent[:, : i + 1])
            turned = query[:, head, i, config.qk_nope_head_dim :]
            scores = scores + torch.einsum("bd,bjd->bj", turned, key_rope[:, : i + 1])
            weights = (scores * attention.scale).softmax(-1)
            outputs.append(torch.einsum("bj,bjc->bc", weights, latent[:, : i + 1]) @ up_value.T)
        mixed.append(torch.stack(outputs, dim=1))
    return torch.cat(mixed, dim=-1) @ attention.o_proj.weight.T


@pytest.mark.parametrize("q_lora_rank", [None, 12])
def test_rebuilt_keys_and_values_match_absorption(q_lora_rank):
    config, attention, x, rotation = random_attention(q_lora_rank=q_lora_rank)
    output = attention(x, rotation)
    assert (
        relative_error(output, by_hand(config, attention, x, rotation))
        <= CHAIN_TOLERANCE[torch.float32]
    )


@pytest.mark.parametrize("step", [1, 2, 4])
def test_cached_positions_match_the_whole_sequence(step):
    config, attention, x, rotation = random_attention()
    cache, parts = GrowingCache(), []
    for start in range(0, 9, step):
        end = min(start + step, 9)
        assert len(cache) == start
        piece = rope_rotation(config, start, end - start, CPU)
        parts.append(attention(x[:, start:end], piece, cache))
    assert (
        relative_error(torch.cat(parts, dim=1), attention(x, rotation))
        <= CHAIN_TOLERANCE[torch.float32]
    )


def test_token_costs_the_cache_one_latent_and_one_rotated_key():
    config, attention, x, rotation = random_attention()
    latent, key_rope = attention.compress(x, rotation)
    assert latent.shape == (2, 9, config.kv_lora_rank)
    assert key_rope.shape == (2, 9, config.qk_rope_head_dim)


def test_rotated_key_is_the_same_for_all_heads():
    config, attention, x, rotation = random_attention(n_heads=4)
    key, value = attention.expand(*attention.compress(x, rotation))
    rotated = key[..., config.qk_nope_head_dim :]
    assert torch.equal(rotated, rotated[:, :1].expand_as(rotated))
    assert value.shape == (2, 4, 9, config.v_head_dim)


def test_without_query_compression_there_is_one_projection():
    names = {name for name, _ in random_attention()[1].named_children()}
    compressed = {name for name, _ in random_attention(q_lora_rank=12)[1].named_children()}
    assert names - compressed == {"q_proj"}
    assert compressed - names == {"q_a_proj", "q_a_layernorm", "q_b_proj"}
