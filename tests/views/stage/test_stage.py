"""Every control changes the same selection, and every view follows it."""

import json
from threading import Thread
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mini_moe import Transformer, generate, presets, trace_routing
from mini_moe.routing import intervene
from mini_moe.text import data_folder
from mini_moe.views.stage import open_stage, state
from mini_moe.views.stage.picture import DESK, LOAD, ROOM, SCORES
from tests.views.conftest import SENTENCE
from tests.views.stage.test_panels import HOSTILE, TEXTS

FOLDER = data_folder() / "checkpoints" / "tiny"


@pytest.fixture
def stage(model):
    stage = open_stage(model, SENTENCE, run_log=FOLDER)
    yield stage
    assert stage.controls.error.value == ""


def shown(stage):
    return np.array(stage.picture.data[SCORES].z).T


def test_typing_runs_the_model_and_selects_the_last_token(stage, model):
    stage.controls.text.value = "Der Hund"
    expected = trace_routing(model, "Der Hund")
    np.testing.assert_array_equal(shown(stage), expected.scores[0])
    assert [chip["text"] for chip in stage.controls.tokens.items] == expected.pieces
    assert stage.controls.tokens.selected == stage.token == len(expected.pieces) - 1


def test_the_layer_slider_changes_every_view(stage):
    stage.controls.layer.value = 3
    np.testing.assert_array_equal(shown(stage), stage.moment.after.scores[2])
    assert "layer 3" in stage.controls.steps.value and "layer 3" in stage.controls.experts.name
    assert stage.replay.data[0].y[0] == pytest.approx(float(stage.history.load[-1, 2, 0]))


def test_a_token_chosen_by_key_or_click_changes_steps_and_next_tokens(stage):
    stage.controls.tokens.selected = 2
    piece = stage.moment.after.pieces[2]
    assert stage.token == 2
    assert f"Token 2 “{piece}”" in stage.controls.steps.value
    assert f">{piece}</b>" in stage.controls.next.value


def test_a_click_into_the_heatmap_selects_token_and_expert(stage):
    stage._clicked(None, SimpleNamespace(xs=[3], ys=[11]), None)
    assert (stage.token, stage.expert) == (3, 11)
    assert stage.controls.experts.selected == 11 and stage.controls.tokens.selected == 3


def test_switching_an_expert_off_really_runs_without_it(stage, model):
    stage.select(layer=2, expert=4)
    stage.controls.off.value = True
    with intervene(model, off={(2, 4)}) as changed:
        expected = trace_routing(changed, SENTENCE)
    assert torch.equal(stage.moment.after.logits, expected.logits)
    assert stage.picture.data[LOAD].x[4] == 0
    assert "layer 2: expert 4 off" in stage.controls.status.value
    assert stage.controls.off.description == "Switch expert 4 on"
    stage.select(expert=5)
    assert not stage.controls.off.value and (2, 4) in stage.changes.off


def test_every_control_of_the_model_reaches_it(stage, model):
    stage.select(layer=3, expert=6)
    stage.controls.bias.value = 0.3
    stage.controls.shared.value = True
    stage.controls.temperature.value = 2.0
    stage.controls.top_k.value = 2
    bias = [0.3 if expert == 6 else 0.0 for expert in range(16)]
    with intervene(model, bias={3: bias}, shared_off={3}, temperature=2.0, top_k=2) as changed:
        expected = trace_routing(changed, SENTENCE)
    assert torch.equal(stage.moment.after.logits, expected.logits)
    stage.controls.reset.click()
    assert torch.equal(stage.moment.after.logits, stage.moment.before.logits)
    controls = stage.controls
    assert (controls.bias.value, controls.temperature.value, controls.top_k.value) == (0, 1, 4)
    assert not controls.shared.value


def test_impossible_changes_are_refused_with_a_message(stage):
    stage.controls.top_k.value = 8
    for expert in range(9):
        stage.switch(1, expert)
    assert "Not possible" in stage.controls.remark.value
    assert len(stage.changes.off) == 8
    assert stage.controls.off.value is False
    stage.reset()
    assert stage.controls.remark.value == ""


def test_a_prepared_prompt_becomes_the_text(stage):
    prompts = json.loads((data_folder() / "prompts.json").read_text("utf-8"))
    assert len(stage.controls.prompt.options) == 1 + sum(map(len, prompts.values()))
    stage.controls.prompt.value = "Once upon a"
    assert stage.controls.text.value == stage.text == "Once upon a"
    assert stage.moment.after.pieces == ["Once", "·upon", "·a"]
    stage.controls.text.value = "Once upon a time"
    assert stage.controls.prompt.value == ""


def test_the_replay_follows_its_slider(stage):
    stage.controls.record.value = 12
    step = stage.history.steps[12]
    assert stage.replay.layout.annotations[0].text == f"Load at step {step}"
    assert f"At step {step} of" in stage.controls.replayed.value


def test_the_strongest_switch_is_selected_and_not_pressed(stage):
    stage.controls.find.click()
    assert "matters most" in stage.controls.remark.value
    assert not stage.changes.off
    assert stage.controls.experts.selected == stage.expert


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_any_text_is_routed(stage, text):
    stage.controls.text.value = text
    assert len(stage.controls.tokens.items) == len(stage.moment.after.pieces)
    for box in ("next", "steps", "status", "summary", "remark"):
        assert "<script" not in getattr(stage.controls, box).value


def test_an_empty_text_keeps_the_picture_and_asks(stage):
    before = shown(stage)
    stage.controls.text.value = ""
    assert stage.controls.remark.value == "Type at least one character."
    np.testing.assert_array_equal(shown(stage), before)
    assert stage.controls.text.value == ""


def test_ten_thousand_characters_are_cut_with_a_notice(stage, model):
    stage.controls.text.value = "many words " * 1000
    assert len(stage.moment.after.pieces) == model.config.max_seq_len
    assert stage.controls.remark.value.startswith(f"The model reads {model.config.max_seq_len}")
    assert shown(stage).shape == (DESK.window, 16)


def test_half_a_character_from_the_browser_breaks_nothing(stage):
    stage.controls.text.value = "\ud83d half"
    assert "half" in "".join(stage.moment.after.pieces)


def test_presentation_size_changes_everything_at_once(stage):
    stage.controls.large.value = True
    assert stage.picture.layout.width == ROOM.width and stage.controls.tokens.large
    assert "22px" in stage.controls.next.value and "<style>" in stage.controls.sizes.value
    stage.controls.large.value = False
    assert stage.picture.layout.width == DESK.width and stage.controls.sizes.value == ""


def test_tables_appear_on_demand(stage):
    assert stage.controls.table.value == ""
    stage.controls.tables.value = True
    assert "<table" in stage.controls.table.value and "MaxVio" in stage.controls.replay_table.value


def test_readers_without_widgets_get_every_view_as_a_still_page(stage):
    stage.controls.text.value = HOSTILE
    bundle = stage._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    page = bundle["text/html"]
    for part in ("untouched", "Step 8 of 8", "At step 2600", "<details>", "MaxVio"):
        assert part in page
    assert "<script" not in page and "<img" not in page
    assert bundle["text/plain"].startswith("untouched In layer 1 each of")


def test_an_error_inside_is_shown_and_the_next_event_clears_it(stage, monkeypatch):
    def fail(*arguments, **named):
        raise RuntimeError("out of memory")

    monkeypatch.setattr("mini_moe.views.stage.stage.run_moment", fail)
    stage.controls.text.value = "anything"
    assert "RuntimeError: out of memory" in stage.controls.error.value
    monkeypatch.undo()
    stage.controls.text.value = "something else"
    assert stage.controls.error.value == ""


def test_no_event_rebuilds_a_widget(stage):
    before = [id(child) for child in stage.view.children]
    stage.controls.text.value = "1 + 1 = 2"
    stage.switch(1, 3)
    stage.controls.large.value = True
    assert [id(child) for child in stage.view.children] == before


def test_an_event_of_another_thread_is_not_taken_for_the_stages_own(stage):
    with stage._silence():
        thread = Thread(target=lambda: setattr(stage.controls.layer, "value", 3))
        thread.start()
        thread.join()
    assert stage.layer == 3


def test_only_one_message_goes_to_the_picture_for_each_change(stage):
    sent = []
    stage.picture.observe(lambda change: sent.append(change.name), names="_py2js_update")
    stage.select(layer=2, expert=4)
    stage.controls.off.value = True
    assert sent.count("_py2js_update") <= 4  # set and cleared once per change


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"layer": 0}, "layer=0"),
        ({"layer": 2.0}, "layer=2.0 must be an integer"),
        ({"expert": 16}, "expert=16"),
        ({"token": 99}, "token=99"),
        ({"token": 1.5}, "token=1.5 must be an integer"),
    ],
)
@pytest.mark.any_types
def test_a_selection_that_does_not_exist_is_refused(stage, named, message):
    selected = stage.layer, stage.expert, stage.token
    with pytest.raises(ValueError, match=message):
        stage.select(**named)
    assert (stage.layer, stage.expert, stage.token) == selected


def test_a_place_that_does_not_exist_cannot_be_switched(stage):
    with pytest.raises(ValueError, match="expert=16 must be an integer in"):
        stage.switch(1, 16)
    assert stage.expert == 0 and not stage.changes.off


def test_the_model_is_the_same_for_others_while_the_stage_runs(stage, model, monkeypatch):
    expected = generate(model, SENTENCE, 8, temperature=0.0)
    stage.select(text="Once upon a time")
    stage.switch(2, 4)
    stage.controls.top_k.value = 1
    kept, written = stage.moment.inputs, []
    given = {layer: x.clone() for layer, x in kept.items()}

    def run_beside(*given, **named):
        written.append(generate(model, SENTENCE, 8, temperature=0.0))
        return trace_routing(*given, **named)

    monkeypatch.setattr(state, "trace_routing", run_beside)
    stage.controls.temperature.value = 1.5
    assert written and set(written) == {expected}
    trace_routing(model, SENTENCE)
    assert all(torch.equal(kept[layer], x) for layer, x in given.items())


def test_a_model_without_tokenizer_or_a_stage_without_text_is_refused(model):
    with pytest.raises(ValueError, match="model: one with a tokenizer expected"):
        open_stage(Transformer(presets.tiny()))
    with pytest.raises(ValueError, match="text: Type at least one character"):
        open_stage(model, "")


def test_without_a_log_there_is_no_replay(model):
    assert open_stage(model, SENTENCE).replay is None
