"""Reading with a cache, absorbed or not, in any chunks, gives the logits of one full pass."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mini_moe.inference import Decoder, LatentCache
from mini_moe.inference.engine import decoder as decoder_module
from mini_moe.model import Transformer
from mini_moe.ops import use
from tests.config_strategy import valid_configs
from tests.helpers import random_tokens, relative_error, small_model

LARGEST_LOGIT_ERROR = 1e-4


def sane(config):
    """Tame a drawn configuration: without the extreme settings at which fp32 loses precision."""
    return dataclasses.replace(
        config,
        norm_eps=1e-6,
        init_std=None,
        route_scale=min(max(config.route_scale, 1.0), 2.5),
        yarn_factor=min(config.yarn_factor, 40.0),
        yarn_mscale=min(config.yarn_mscale, 1.0),
        yarn_mscale_all_dim=min(config.yarn_mscale_all_dim, 1.0),
        max_seq_len=48,
    )


def logits_of(decoder, tokens, cache, absorbed=True):
    """Read more tokens, absorbed or not regardless of cost, and return their logits."""
    embedded = torch.nn.functional.embedding(tokens, decoder.embedding)
    return decoder.logits(decoder.run(decoder.stack, embedded, cache, absorbed))


@settings(max_examples=80, deadline=None, derandomize=True)
@given(valid_configs(), st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(1, 3))
@torch.no_grad()
def test_absorbed_and_naive_decoding_are_the_full_pass(config, pieces, batch):
    torch.manual_seed(0)
    model = Transformer(sane(config)).eval()
    decoder, tokens = Decoder(model), random_tokens(config, batch, sum(pieces))
    full = model(tokens)
    ways = {
        "absorbed": lambda part, cache: logits_of(decoder, part, cache),
        "rebuilt": lambda part, cache: logits_of(decoder, part, cache, absorbed=False),
        "modules": lambda part, cache: model(part, cache=cache),
    }
    held = []
    for way, read in ways.items():
        cache = LatentCache(model, batch)
        logits = [read(part, cache) for part in tokens.split(pieces, dim=1)]
        assert (torch.cat(logits, dim=1) - full).abs().max() <= LARGEST_LOGIT_ERROR, way
        held.append(cache.numbers)
    assert max(relative_error(numbers, held[0]) for numbers in held) <= LARGEST_LOGIT_ERROR


@torch.no_grad()
@pytest.mark.parametrize(
    "changes",
    [{}, {"q_lora_rank": 12}, {"yarn_factor": 4.0, "yarn_original_seq_len": 16}]
    + [{"n_expert_groups": 4, "top_k_groups": 2}, {"n_mtp_layers": 1, "tie_embeddings": True}]
    + [{"n_shared_experts": 0}, {"n_dense_layers": 3}, {"kv_lora_rank": 15}]
    + [{"score_function": "softmax", "expert_bias": False, "norm_topk_prob": False}],
)
def test_one_cache_serves_both_forms_alternately(changes):
    model = small_model(**changes)
    decoder, cache = Decoder(model), LatentCache(model, 2)
    tokens = random_tokens(model.config, 2, 40)
    parts = list(tokens.split([9, 1, 1, 20, 2, 1, 6], dim=1))
    logits = [
        model(part, cache=cache) if number % 3 == 0
        else logits_of(decoder, part, cache, absorbed=number % 3 == 1)
        for number, part in enumerate(parts)
    ]  # fmt: skip
    assert (torch.cat(logits, dim=1) - model(tokens)).abs().max() <= LARGEST_LOGIT_ERROR


@torch.no_grad()
def test_wide_reads_rebuild_and_narrow_reads_absorb(monkeypatch):
    model = small_model(max_seq_len=512)
    decoder, cache, taken = Decoder(model), LatentCache(model), []
    run = decoder.run
    monkeypatch.setattr(decoder, "run", lambda *a: taken.append(a[-1]) or run(*a))
    for new in (200, 1, 4):
        decoder.read(random_tokens(model.config, 1, new), cache)
    assert taken == [False, True, True]


@torch.no_grad()
@pytest.mark.parametrize("chunk", [1, 3, 8, 256])
def test_prompts_of_different_lengths_are_read_as_each_alone(chunk, monkeypatch):
    monkeypatch.setattr(decoder_module, "CHUNK", chunk)
    model = small_model()
    prompts = [random_tokens(model.config, 1, n, seed=n)[0].tolist() for n in (9, 1, 30, 8)]
    decoder, cache = Decoder(model), LatentCache(model, 4, 40)
    logits = decoder.logits(decoder.prefill(prompts, cache))
    assert cache.lengths == [9, 1, 30, 8]
    for _ in range(5):
        for prompt, own in zip(prompts, logits, strict=True):
            alone = model(torch.tensor([prompt]))[0, -1]
            assert (own - alone).abs().max() <= LARGEST_LOGIT_ERROR
            prompt.append(int(own.argmax()))
        last = torch.tensor([prompt[-1:] for prompt in prompts])
        logits = decoder.logits(decoder.read(last, cache))[:, 0]


@torch.no_grad()
def test_sequences_of_different_lengths_read_several_tokens_at_once():
    model = small_model()
    decoder, cache = Decoder(model), LatentCache(model, 2)
    prompts, more = [[3, 4, 5, 6, 7], [8, 9]], torch.tensor([[1, 2, 3], [4, 5, 6]])
    decoder.prefill(prompts, cache)
    logits = decoder.logits(decoder.read(more, cache))
    for prompt, new, own in zip(prompts, more, logits, strict=True):
        whole = model(torch.tensor([prompt + new.tolist()]))[0, -3:]
        assert (own - whole).abs().max() <= LARGEST_LOGIT_ERROR
    assert cache.lengths == [8, 5]


@torch.no_grad()
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.bfloat16, 0.03)])
@pytest.mark.parametrize("absorbed", [True, False])
def test_other_dtypes_decode(dtype, tolerance, absorbed):
    everyone = {"n_routed_experts": 4, "top_k": 4}  # a rounded score can't tip a choice
    model = small_model(**everyone).to(dtype)
    for layer in model.layers[1:]:
        gate = layer.mlp.gate
        gate.e_score_correction_bias = gate.e_score_correction_bias.float()
    tokens = random_tokens(model.config)
    expected = small_model(**everyone).to(dtype).double()(tokens)
    cache, decoder = LatentCache(model, 2), Decoder(model)
    logits = [logits_of(decoder, part, cache, absorbed) for part in tokens.split(5, dim=1)]
    logits = torch.cat(logits, dim=1)
    assert logits.dtype == torch.promote_types(dtype, torch.float32)
    assert relative_error(logits, expected) < tolerance


@torch.no_grad()
@pytest.mark.parametrize("absorbed", [True, False])
def test_the_compiled_kernels_are_not_needed(absorbed):
    model, tokens = small_model(), random_tokens(small_model().config)
    with use("pytorch"):
        plain = logits_of(Decoder(model), tokens, LatentCache(model, 2), absorbed)
    assert (plain - model(tokens)).abs().max() <= LARGEST_LOGIT_ERROR


@torch.no_grad()
def test_autocast_does_not_affect_the_decoder():
    model, tokens = small_model(), random_tokens(small_model().config, 2, 1)
    expected = Decoder(model).read(tokens, LatentCache(model, 2))
    with torch.autocast("cpu", torch.bfloat16):
        found = Decoder(model).read(tokens, LatentCache(model, 2))
    assert torch.equal(found, expected)


def test_a_cache_that_does_not_fit_is_refused():
    model, other = small_model(), small_model(1)
    decoder, cache = Decoder(model), LatentCache(model, 2, 8)
    with pytest.raises(ValueError, match="this Decoder's model expected"):
        Decoder(other).read(random_tokens(model.config, 2, 1), cache)
    with pytest.raises(ValueError, match="batch of 2 sequences expected, got 3"):
        decoder.read(random_tokens(model.config, 3, 1), cache)
    with pytest.raises(ValueError, match=r"at most capacity=8 positions expected, got 0 \+ 9"):
        decoder.read(random_tokens(model.config, 2, 9), cache)
    decoder.prefill([[1], [2, 3]], cache)
    with pytest.raises(ValueError, match="empty cache expected"):
        decoder.prefill([[1], [2]], cache)
    assert cache.lengths == [1, 2]


def test_a_model_whose_dtype_changed_needs_a_new_decoder():
    model = small_model()
    decoder, tokens = Decoder(model), random_tokens(model.config, 1, 1)
    with pytest.raises(ValueError, match=r"float32 expected, .* made, got torch\.bfloat16"):
        decoder.read(tokens, LatentCache(model.bfloat16()))
    assert Decoder(model).read(tokens, LatentCache(model)).dtype == torch.float32


@pytest.mark.parametrize("token", [-1, 61])
def test_an_id_out_of_range_is_named_and_the_cache_is_unchanged(token):
    model = small_model()
    cache = LatentCache(model)
    with pytest.raises(ValueError, match=rf"tokens must lie in \[0, vocab_size=61\), got {token}"):
        Decoder(model).read(torch.tensor([[token]]), cache)
    assert cache.lengths == [0]


def test_nothing_to_read_is_refused():
    model = small_model()
    decoder, cache = Decoder(model), LatentCache(model)
    for nothing, message in [
        (torch.zeros(1, 0).long(), "at least one"),
        (torch.zeros(0, 1), "sequences expected, got 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            decoder.read(nothing.long(), cache)
    with pytest.raises(ValueError, match="sequences expected, got 0"):
        decoder.prefill([], cache)
    with pytest.raises(ValueError, match="at least one"):
        decoder.prefill([[]], cache)
