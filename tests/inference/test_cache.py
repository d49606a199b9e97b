"""The cache holds one latent and one rotated key a token and layer, and nothing more."""

import pytest
import torch

from mini_moe import presets
from mini_moe.inference import KeyValueCache
from mini_moe.inference.cache import kv_bytes_per_token
from tests.helpers import random_tokens, relative_error, small_model


def test_deepseek_v3_caches_70272_bytes_a_token():
    assert kv_bytes_per_token(presets.deepseek_v3()) == 70_272
    assert kv_bytes_per_token(presets.deepseek_v3(), bytes_per_number=1) == 35_136


@torch.no_grad()
@pytest.mark.parametrize(("dtype", "n_bytes"), [(torch.float32, 4), (torch.bfloat16, 2)])
def test_bytes_are_those_of_the_formula(dtype, n_bytes):
    model = small_model(n_mtp_layers=1).to(dtype)
    cache = KeyValueCache()
    assert (len(cache), cache.n_bytes) == (0, 0)
    for batch, seq, total in ((3, 7, 7), (3, 1, 8), (3, 4, 12)):
        model(random_tokens(model.config, batch, seq), cache=cache)
        assert len(cache) == total
        assert cache.n_bytes == kv_bytes_per_token(model.config, n_bytes) * 3 * total


@torch.no_grad()
@pytest.mark.parametrize("pieces", [[12], [1] * 12, [5, 1, 6], [11, 1]])
@pytest.mark.parametrize("changes", [{}, {"q_lora_rank": 8}, {"yarn_factor": 4.0}])
def test_logits_with_a_cache_are_those_of_one_pass(pieces, changes):
    model = small_model(yarn_original_seq_len=16, **changes)
    tokens = random_tokens(model.config, seq=12)
    cache = KeyValueCache()
    logits = torch.cat([model(part, cache=cache) for part in tokens.split(pieces, dim=1)], dim=1)
    assert relative_error(logits, model(tokens)) < 5e-6


@torch.no_grad()
def test_a_full_cache_is_refused_and_stays_as_it_was():
    model = small_model()
    cache = KeyValueCache()
    model(random_tokens(model.config, seq=64), cache=cache)
    with pytest.raises(ValueError, match="position 65, max_seq_len=64"):
        model(random_tokens(model.config, seq=1), cache=cache)
    assert len(cache) == 64
