"""A trace records what the routers did, and recording it changes nothing."""

import pytest
import torch

from mini_moe.routing import trace_routing
from mini_moe.text import default_tokenizer
from tests.helpers import random_tokens, relative_error, small_model, without_shape_hook


def traced(**changes):
    model = small_model(**changes)
    tokens = random_tokens(model.config, 1, 15)[0]
    return model, tokens, trace_routing(model, tokens)


def test_tracing_changes_no_bit_of_the_result():
    model, tokens, trace = traced()
    before = model.state_dict()
    assert torch.equal(trace.logits, model(tokens[None])[0])
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())


@pytest.mark.parametrize("training", [False, True])
def test_tracing_leaves_the_mode_and_the_gradients_alone(training):
    model = small_model().train(training)
    trace = trace_routing(model, [1, 2, 3])
    assert model.training == training
    assert not trace.logits.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())


def test_shapes_follow_layers_tokens_and_experts():
    model, tokens, trace = traced(n_layers=4, n_dense_layers=2)
    assert trace.layers == (2, 3) and trace.n_experts == 8
    assert trace.scores.shape == trace.choice_scores.shape == (2, 15, 8)
    assert trace.expert_ids.shape == trace.gates.shape == (2, 15, 2)
    assert torch.equal(trace.tokens, tokens)


def test_chosen_experts_have_the_best_choice_scores_and_gates_from_bare_scores():
    model, _, trace = traced(n_expert_groups=4, top_k_groups=2)
    best = trace.choice_scores.topk(2, dim=-1).indices
    assert torch.equal(trace.expert_ids, best)
    chosen = trace.scores.gather(-1, trace.expert_ids)
    expected = 2.5 * chosen / chosen.sum(-1, keepdim=True)
    assert torch.allclose(trace.gates, expected)
    bias = torch.stack([model.layers[i].mlp.gate.e_score_correction_bias for i in trace.layers])
    inside = trace.choice_scores.isfinite()
    assert torch.equal((trace.scores + bias[:, None])[inside], trace.choice_scores[inside])
    assert inside.sum(-1).eq(4).all()


def test_traced_choice_is_what_the_layer_computes_with():
    """Rebuild the last layer's output from the trace alone."""
    model, tokens, trace = traced(n_layers=2, n_shared_experts=0)
    seen = {}
    layer = model.layers[1].mlp
    layer.register_forward_hook(lambda _, inputs, output: seen.update(x=inputs[0], y=output))
    model(tokens[None])
    expected = layer.experts(seen["x"][0], trace.expert_ids[0], trace.gates[0])
    assert relative_error(seen["y"][0], expected) < 1e-6


def test_pieces_are_readable_text():
    model = small_model(vocab_size=4096)
    model.tokenizer = default_tokenizer()
    text = "The fox — der Fuchs."
    trace = trace_routing(model, text)
    assert trace.tokens.tolist() == model.tokenizer.encode(text)
    assert trace.pieces == model.tokenizer.pieces(trace.tokens.tolist())


def test_without_a_tokenizer_pieces_are_the_ids():
    assert trace_routing(small_model(), [7, 12]).pieces == ["7", "12"]


def test_batch_is_flattened_into_one_sequence_of_tokens():
    model = small_model()
    tokens = random_tokens(model.config, 3, 5)
    trace = trace_routing(model, tokens)
    assert torch.equal(trace.tokens, tokens.flatten())
    assert trace.expert_ids.shape == (2, 15, 2)
    assert torch.equal(trace.logits, model(tokens).flatten(0, 1))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("words", "no tokenizer"),
        ("", "text"),
        ([], "empty text"),
        (torch.zeros(0, dtype=torch.long), "empty text"),
        ([61], "vocab_size=61"),
        ([0] * 65, "max_seq_len=64"),
    ],
)
def test_text_that_cannot_be_traced_is_named(text, named):
    with without_shape_hook(), pytest.raises(ValueError, match=named):
        trace_routing(small_model(), text)


def test_empty_text_is_refused_even_with_a_tokenizer():
    model = small_model(vocab_size=4096)
    model.tokenizer = default_tokenizer()
    with pytest.raises(ValueError, match="empty text"):
        trace_routing(model, "")


def test_model_without_experts_is_refused():
    with pytest.raises(ValueError, match="only dense layers"):
        trace_routing(small_model(n_dense_layers=3), [1, 2])
