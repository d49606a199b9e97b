"""The whole model: causality, reproducibility, parameter counts and errors for bad tokens."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mini_moe.model import Transformer
from mini_moe.ops import use
from tests.config_strategy import valid_configs
from tests.helpers import (
    CHAIN_TOLERANCE,
    random_tokens,
    relative_error,
    small_config,
    small_model,
    without_shape_hook,
)
from tests.model.test_attention import GrowingCache


@settings(max_examples=60, deadline=None, derandomize=True)
@given(valid_configs().filter(lambda c: c.max_seq_len >= 4 and c.vocab_size > 1), st.data())
def test_later_token_changes_no_earlier_logit(config, data):
    """Up to rounding: experts multiply different numbers of rows when the tokens change."""
    torch.manual_seed(0)
    model = Transformer(config).double()
    length = min(config.max_seq_len, 12)
    tokens = random_tokens(config, 1, length)
    where = data.draw(st.integers(1, length - 1))
    changed = tokens.clone()
    changed[0, where:] = (changed[0, where:] + 1) % config.vocab_size
    before, after = model(tokens)[:, :where], model(changed)[:, :where]
    assert relative_error(after, before) <= CHAIN_TOLERANCE[torch.float64]


def test_token_sees_itself_and_what_came_before():
    model = small_model().double()
    tokens = random_tokens(model.config, 1, 10)
    changed = tokens.clone()
    changed[0, 4] = (changed[0, 4] + 1) % model.config.vocab_size
    moved = (model(tokens) - model(changed)).abs().amax(dim=-1)[0] > 1e-9
    assert moved.tolist() == 4 * [False] + 6 * [True]


def test_sequences_of_a_batch_do_not_see_each_other():
    model = small_model()
    tokens = random_tokens(model.config, 3, 10)
    together = model(tokens)
    for row, alone in zip(together, tokens, strict=True):
        assert relative_error(row, model(alone[None])[0]) <= CHAIN_TOLERANCE[torch.float32]


def test_cached_steps_give_the_logits_of_the_whole_text():
    model = small_model(q_lora_rank=12, yarn_factor=4.0, yarn_original_seq_len=8)
    tokens = random_tokens(model.config, 2, 12)
    cache = GrowingCache()
    parts = [model(piece, cache=cache) for piece in tokens.split([5, 1, 4, 2], dim=1)]
    assert relative_error(torch.cat(parts, dim=1), model(tokens)) <= CHAIN_TOLERANCE[torch.float32]


def test_same_seed_gives_the_same_model_and_the_same_bits():
    one, two = small_model(seed=3), small_model(seed=3)
    tokens = random_tokens(one.config)
    assert torch.equal(one(tokens), two(tokens))
    assert torch.equal(one(tokens), one(tokens))


def test_recording_decisions_changes_no_bit():
    model = small_model()
    tokens = random_tokens(model.config)
    routings = []
    assert torch.equal(model(tokens, routings=routings), model(tokens))
    assert len(routings) == model.config.n_moe_layers


def test_logits_are_the_head_of_the_hidden_vectors():
    model = small_model()
    tokens = random_tokens(model.config)
    assert torch.equal(model(tokens), model.lm_head(model.hidden(tokens)))


@pytest.mark.parametrize("tie", [False, True])
def test_embedding_and_head_share_weights_only_if_tied(tie):
    model = small_model(tie_embeddings=tie)
    assert (model.lm_head.weight is model.embed_tokens.weight) == tie
    vocabulary = model.config.vocab_size * model.config.d_model
    untied_total = small_model().count_parameters()[0]
    assert model.count_parameters()[0] == untied_total - tie * vocabulary


def test_active_parameters_leave_out_the_experts_not_chosen():
    model = small_model()
    total, active = model.count_parameters()
    one_expert = 3 * 32 * 16
    assert total - active == 2 * (8 - 2) * one_expert
    assert total == sum(t.numel() for t in model.state_dict().values())


def test_dense_model_is_all_active():
    model = small_model(n_dense_layers=3)
    total, active = model.count_parameters()
    assert total == active
    assert not any(layer.is_moe for layer in model.layers)


def test_fresh_weights_have_the_configured_spread():
    torch.manual_seed(0)
    model = Transformer(small_config(d_model=256, vocab_size=500, init_std=0.03))
    for name, parameter in model.named_parameters():
        if "norm" in name:
            assert (parameter == 1).all(), name
        else:
            assert parameter.std().item() == pytest.approx(0.03, rel=0.15), name
    assert not any(buffer.any() for buffer in model.buffers()), "biases start at zero"


def test_every_parameter_receives_a_finite_gradient():
    model = small_model(q_lora_rank=12).train()
    model(random_tokens(model.config, 4, 32)).logsumexp(-1).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.isfinite().all() and parameter.grad.any(), name


def test_autocast_stays_close_to_single_precision():
    model = small_model(top_k=8)  # all experts, so rounding can't change where a token goes
    tokens = random_tokens(model.config)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(tokens)
        logits.float().sum().backward()
    assert relative_error(logits, model(tokens)) < 0.02
    assert all(p.grad.dtype == torch.float32 for p in model.parameters())


@pytest.mark.parametrize(
    ("tokens", "named"),
    [
        (torch.tensor([[0, 61]]), r"tokens must lie in \[0, vocab_size=61\), got 0 to 61"),
        (torch.tensor([[-1, 3]]), r"tokens must lie in \[0, vocab_size=61\), got -1 to 3"),
        (torch.zeros(1, 65, dtype=torch.long), "tokens reach position 65, but max_seq_len=64"),
        (torch.zeros(1, 0, dtype=torch.long), "tokens: a non-empty"),
        (torch.zeros(0, 5, dtype=torch.long), "tokens: a non-empty"),
        (torch.zeros(5, dtype=torch.long), r"tokens: a non-empty \[batch, seq\]"),
        (torch.zeros(1, 5), "tokens: integers"),
        (torch.zeros(1, 5, dtype=torch.bool), "tokens: integers"),
    ],
)
def test_bad_tokens_are_named(tokens, named):
    with without_shape_hook(), pytest.raises(ValueError, match=named):
        small_model()(tokens)


def test_cache_counts_towards_the_longest_sequence():
    model = small_model(max_seq_len=8)
    cache = GrowingCache()
    model(random_tokens(model.config, 1, 6), cache=cache)
    with pytest.raises(ValueError, match="position 9, but max_seq_len=8"):
        model(random_tokens(model.config, 1, 3), cache=cache)


@pytest.mark.compile
def test_model_compiles_without_a_break():
    model = small_model()
    tokens = random_tokens(model.config)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert relative_error(compiled(tokens), model(tokens)) <= CHAIN_TOLERANCE[torch.float32]


@pytest.mark.parametrize("form", ["compiled", "pytorch", "definition"])
@pytest.mark.parametrize("layer", [0, 1])
def test_forward_and_backward_derivatives_agree(form, layer):
    """⟨u, J v⟩ = ⟨Jᵀ u, v⟩ for a norm and the network after it."""
    block, (x, u, v) = small_model().layers[layer], torch.randn(3, 2, 6, 32)

    def function(x):
        return block.mlp(block.post_attention_layernorm(x))

    with use(form):
        moved = torch.func.jvp(function, (x,), (v,))[1]
        x.requires_grad_()
        back = torch.autograd.grad((function(x) * u).sum(), x)[0]
    assert ((moved * u).sum() - (back * v).sum()).abs() <= CHAIN_TOLERANCE[
        torch.float32
    ] * moved.norm() * u.norm()
    assert moved.norm() > 0
