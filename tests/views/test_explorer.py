"""The explorer accepts any text and shows what the trace contains."""

import pytest
import torch

from mini_moe import Transformer, presets, trace_routing
from mini_moe.views import explore_routing, next_tokens
from mini_moe.views.explorer import read_text
from tests.views.conftest import SENTENCE


@pytest.fixture
def explorer(model):
    return explore_routing(model, SENTENCE)


def test_typing_routes_the_new_text(explorer, model):
    explorer.text.value = "Der Hund"
    expected = trace_routing(model, "Der Hund")
    assert explorer.trace.pieces == expected.pieces
    assert torch.equal(torch.tensor(explorer.figure.data[0].z).T, expected.scores[0])
    assert all(f">{piece}</span>" in explorer.sentence.value for piece in expected.pieces)
    assert explorer.error.value == explorer.remark.value == ""


def test_the_slider_changes_the_layer(explorer):
    explorer.slider.value = 3
    assert torch.equal(torch.tensor(explorer.figure.data[0].z).T, explorer.trace.scores[2])
    assert explorer.figure.layout.title.text.startswith("Layer 3")


def test_an_empty_text_keeps_the_picture_and_prompts_for_input(explorer):
    before = explorer.sentence.value
    explorer.text.value = ""
    assert explorer.remark.value == "Type at least one character."
    assert explorer.sentence.value == before
    explorer.text.value = "a"
    assert explorer.remark.value == ""


@pytest.mark.parametrize(
    "text",
    [
        "🙂🙂",
        "\ud83d half a character",
        "\x00\x07\x1b[31m",
        " ",
        "\n\n",
        "日本語",
        "<b>&</b>",
        "é" * 40,
    ],
)
def test_any_characters_are_routed(explorer, text):
    explorer.text.value = text
    assert explorer.error.value == ""
    assert len(explorer.trace.pieces) >= 1
    assert "<b>&</b>" not in explorer.sentence.value


def test_a_long_text_is_clipped_with_a_message(explorer, model):
    explorer.text.value = "many words " * 10_000
    assert len(explorer.trace.pieces) == model.config.max_seq_len
    assert explorer.remark.value.startswith(f"The model reads {model.config.max_seq_len} tokens")
    explorer.text.value = "1 " * 20
    assert explorer.remark.value.endswith("the heatmap draws the last 28.")


def test_an_error_inside_is_shown_and_the_next_text_clears_it(explorer, monkeypatch):
    def fail(model, text):
        raise RuntimeError("out of memory")

    monkeypatch.setattr("mini_moe.views.explorer.read_text", fail)
    explorer.text.value = "anything"
    assert "RuntimeError: out of memory" in explorer.error.value
    monkeypatch.undo()
    explorer.text.value = "something else"
    assert explorer.error.value == ""


def test_readers_without_widgets_get_the_same_as_html(explorer):
    bundle = explorer._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert "·found" in bundle["text/html"]
    assert bundle["text/plain"].startswith("In layer 1 each of")


def test_the_expected_tokens_are_the_likeliest(model, trace):
    probabilities = trace.logits[-1].softmax(-1)
    best = model.tokenizer.pieces([int(probabilities.argmax())])[0]
    assert repr(next_tokens(trace, model)).startswith(f"The model expects next: {best} ")


def test_a_model_without_tokenizer_is_refused():
    with pytest.raises(ValueError, match="model: one with a tokenizer expected"):
        explore_routing(Transformer(presets.tiny()))


def test_an_empty_first_text_is_refused(model):
    with pytest.raises(ValueError, match="text: Type at least one character"):
        explore_routing(model, "")
    assert read_text(model, "") == (None, "Type at least one character.")
