from dataclasses import replace

import pytest
import torch

from mini_moe import Transformer, presets
from mini_moe.experiments.needle import needle_example
from mini_moe.text import load_corpus
from mini_moe.views.long_context import attention_lines, last_attention, needle_span
from mini_moe.views.style import summary_of


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = replace(presets.lab(), max_seq_len=512, yarn_factor=4.0, yarn_original_seq_len=128)
    return Transformer(config).eval()


@pytest.fixture(scope="module")
def example():
    return needle_example(load_corpus(), 300, 0.5, seed=1)


@torch.no_grad()
def test_shares_are_those_of_the_forward_pass(model):
    tokens = torch.randint(1, model.config.vocab_size, (40,))
    inside = {}

    def keep(module, given, out):
        x, rotation = given[:2]
        _, values = module.expand(*module.compress(x, rotation))
        inside[module.layer] = values[0], out[0, -1]

    hooks = [layer.self_attn.register_forward_hook(keep) for layer in model.layers]
    shares = last_attention(model, tokens)
    for hook in hooks:
        hook.remove()
    assert shares.sum(dim=-1) == pytest.approx(1.0)
    for layer, (values, out) in inside.items():
        mixed = torch.einsum("hk,hkd->hd", shares[layer], values).flatten()
        torch.testing.assert_close(
            model.layers[layer].self_attn.o_proj(mixed), out, atol=1e-4, rtol=1e-3
        )


def test_no_hook_stays(model):
    with pytest.raises(ValueError):
        last_attention(model, torch.zeros(1000, dtype=torch.long))
    assert not any(layer.self_attn._forward_pre_hooks for layer in model.layers)


def test_the_span_holds_the_needle(example):
    tokenizer = load_corpus().tokenizer
    span = needle_span(example, tokenizer)
    assert tokenizer.decode(example.tokens[span.start : span.stop].tolist()).strip() == (
        example.needle
    )
    with pytest.raises(ValueError, match="does not contain"):
        needle_span(replace(example, needle="The pass key of Nobody is 1."), tokenizer)


def test_the_head_that_sees_most_is_drawn():
    shares = torch.full((2, 3, 10), 0.01)
    shares[1, 2, 4] = 0.9
    figure = attention_lines({"a": torch.full((2, 3, 10), 0.1), "b": shares}, range(4, 6))
    assert summary_of(figure) == (
        "Layer 1, head 2: the needle's share of the last token's attention is 20.0% (a), 91.0% (b)."
    )
    with pytest.raises(ValueError, match="at least one model"):
        attention_lines({}, range(1))
