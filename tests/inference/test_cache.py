"""The cache holds one latent and one rotated key per token and layer, and nothing more."""

import pytest
import torch

from mini_moe import presets
from mini_moe.inference import KeyValueCache, LatentCache
from mini_moe.inference.cache import kv_bytes_per_token
from tests.helpers import random_tokens, relative_error, small_model


def test_deepseek_v3_caches_70272_bytes_per_token():
    assert kv_bytes_per_token(presets.deepseek_v3()) == 70_272
    assert kv_bytes_per_token(presets.deepseek_v3(), bytes_per_number=1) == 35_136


@torch.no_grad()
@pytest.mark.parametrize(("dtype", "n_bytes"), [(torch.float32, 4), (torch.bfloat16, 2)])
def test_bytes_match_the_formula(dtype, n_bytes):
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
def test_logits_with_a_cache_match_one_pass(pieces, changes):
    model = small_model(yarn_original_seq_len=16, **changes)
    tokens = random_tokens(model.config, seq=12)
    cache = KeyValueCache()
    logits = torch.cat([model(part, cache=cache) for part in tokens.split(pieces, dim=1)], dim=1)
    assert relative_error(logits, model(tokens)) < 5e-6


@torch.no_grad()
def test_a_full_cache_is_refused_and_unchanged():
    model = small_model()
    cache = KeyValueCache()
    model(random_tokens(model.config, seq=64), cache=cache)
    with pytest.raises(ValueError, match="position 65, but max_seq_len=64"):
        model(random_tokens(model.config, seq=1), cache=cache)
    assert len(cache) == 64


@torch.no_grad()
@pytest.mark.parametrize(("dtype", "n_bytes"), [(torch.float32, 4), (torch.bfloat16, 2)])
def test_allocated_bytes_match_the_formula(dtype, n_bytes):
    model = small_model(n_mtp_layers=1).to(dtype)
    cache = LatentCache(model, batch=3, capacity=20)
    assert cache.n_bytes == kv_bytes_per_token(model.config, n_bytes) * 3 * 20
    before = cache.numbers.data_ptr()
    model(random_tokens(model.config, 3, 20), cache=cache)
    assert (cache.lengths, cache.numbers.data_ptr()) == ([20] * 3, before)


@torch.no_grad()
@pytest.mark.parametrize("pieces", [[12], [1] * 12, [5, 1, 6], [11, 1]])
def test_a_preallocated_cache_gives_the_same_as_a_growing_one(pieces):
    model = small_model()
    tokens = random_tokens(model.config, seq=12)
    growing, fixed = KeyValueCache(), LatentCache(model, 2)
    for part in tokens.split(pieces, dim=1):
        assert torch.equal(model(part, cache=fixed), model(part, cache=growing))
        assert len(fixed) == len(growing)


@torch.no_grad()
def test_an_interrupted_pass_leaves_the_cache_unchanged(monkeypatch):
    model = small_model()
    cache, tokens = LatentCache(model, 2), random_tokens(model.config, seq=12)
    model(tokens[:, :5], cache=cache)

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(model.layers[1], "forward", interrupted)
        model(tokens[:, 5:], cache=cache)
    assert cache.lengths == [5, 5]
    assert relative_error(model(tokens[:, 5:], cache=cache), model(tokens)[:, 5:]) < 5e-6


@torch.no_grad()
def test_a_dropped_sequence_is_replaced_by_the_last():
    model = small_model()
    cache, tokens = LatentCache(model, 3), random_tokens(model.config, 3)
    model(tokens, cache=cache)
    cache.drop(0)
    assert (cache.batch, cache.lengths) == (2, [12, 12])
    rest = torch.tensor([[5], [6]])
    expected = model(torch.cat((tokens[[2, 1]], rest), dim=1))[:, -1:]
    assert relative_error(model(rest, cache=cache), expected) < 5e-6


@torch.no_grad()
def test_a_cache_that_does_not_fit_is_refused():
    model = small_model()
    cache = LatentCache(model, batch=2, capacity=8)
    with pytest.raises(ValueError, match="batch of 2 sequences expected, got 3"):
        model(random_tokens(model.config, 3, 4), cache=cache)
    with pytest.raises(ValueError, match="at most capacity=8 positions"):
        model(random_tokens(model.config, 2, 9), cache=cache)
    wider = small_model(kv_lora_rank=20)
    with pytest.raises(
        ValueError, match="3 layers with 20 numbers per token expected, got layer 0 with 24"
    ):
        wider(random_tokens(model.config, 2, 4), cache=cache)
    assert cache.lengths == [0, 0]
    cache.lengths = [3, 5]
    with pytest.raises(ValueError, match=r"sequences of equal length expected, got \[3, 5\]"):
        model(random_tokens(model.config, 2, 1), cache=cache)


@pytest.mark.parametrize(
    ("arguments", "message"), [({"batch": 0}, "batch=0"), ({"capacity": 0}, r"\[1, 64\]")]
)
def test_impossible_caches_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        LatentCache(small_model(), **arguments)
