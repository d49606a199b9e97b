"""The picture's data match the trace, for every change and every window."""

import numpy as np
import pytest

from mini_moe.routing import expert_load, noise_floor
from mini_moe.views.stage.picture import (
    BEFORE,
    CAPACITY,
    CHANCE,
    CHOSEN,
    DESK,
    EVEN,
    FRAME,
    GATES,
    LOAD,
    LOST,
    ROOM,
    SCORES,
    draw_moment,
    resize_picture,
    stage_picture,
    window_start,
)
from mini_moe.views.stage.state import UNTOUCHED, run_moment
from mini_moe.views.style import summary_of
from tests.views.conftest import SENTENCE


def drawn(model, text=SENTENCE, changes=UNTOUCHED, layer=2, token=3, expert=5, first=0, **named):
    moment = run_moment(model, model.tokenizer.encode(text), changes)
    figure = stage_picture(16)
    draw_moment(figure, moment, layer, token, expert, first, DESK, **named)
    return figure, moment


def test_scores_and_gates_are_those_of_the_trace(model):
    figure, moment = drawn(model)
    np.testing.assert_allclose(figure.data[SCORES].z.T, moment.after.scores[1].numpy())
    cells = set(zip(figure.data[GATES].x, figure.data[GATES].y, strict=True))
    chosen = {(t, e) for t, ids in enumerate(moment.after.expert_ids[1].tolist()) for e in ids}
    assert cells == chosen
    outlined = figure.data[CHOSEN].x
    assert np.isnan(outlined).sum() == len(chosen)


def test_the_frame_marks_the_selected_token_and_expert(model):
    figure, moment = drawn(model, token=4, expert=7)
    x, y = np.array(figure.data[FRAME].x), np.array(figure.data[FRAME].y)
    assert set(x[:5]) == {3.5, 4.5} and set(y[6:]) == {6.5, 7.5}
    assert figure.layout.xaxis.ticktext[4].startswith("<b>●")
    assert figure.layout.yaxis.ticktext[7] == "<b>● 7</b>"


def test_lost_cells_are_those_only_the_untouched_model_chose(model):
    _, untouched = drawn(model)
    expert = int(untouched.after.expert_ids[1, 0, 0])
    figure, moment = drawn(model, changes=UNTOUCHED.switch((2, expert), off=True))
    lost = list(zip(figure.data[LOST].x, figure.data[LOST].y, strict=True))
    tokens = [t for t, ids in enumerate(moment.before.expert_ids[1].tolist()) if expert in ids]
    assert 0 in tokens and [t for t, e in lost if e == expert] == tokens
    assert drawn(model)[0].data[LOST].x == ()


def test_load_chance_and_capacity_are_drawn(model):
    figure, moment = drawn(model, capacity_factor=1.5)
    load = expert_load(moment.after.expert_ids[1], 16)
    np.testing.assert_allclose(figure.data[LOAD].x, load.numpy())
    floor = noise_floor(16, moment.after.expert_ids[1].numel() / 16)
    assert figure.data[EVEN].x[0] == 1 / 16
    assert figure.data[CHANCE].x[0] == pytest.approx((1 + floor) / 16)
    assert figure.data[CAPACITY].x[0] == pytest.approx(1.5 / 16)
    assert drawn(model)[0].data[CAPACITY].x == () and len(figure.data[BEFORE].x) == 0


def test_the_untouched_load_stays_visible_under_changes(model):
    figure, moment = drawn(model, changes=UNTOUCHED.switch((2, 3), off=True), expert=3)
    before = expert_load(moment.before.expert_ids[1], 16)
    np.testing.assert_allclose(figure.data[BEFORE].x, before.numpy())
    assert figure.data[LOAD].x[3] == 0 and figure.data[LOAD].marker.pattern.shape[3] == "x"
    assert "expert 3 gets 0.0%" in summary_of(figure)


def test_a_long_text_is_drawn_in_a_window_and_says_which(model):
    figure, moment = drawn(model, text="one two three four five " * 8, token=30, first=12)
    assert list(figure.data[SCORES].x) == list(range(12, 12 + DESK.window))
    assert "tokens 12 to 33" in figure.layout.annotations[0].text


@pytest.mark.parametrize("token", [0, 5, 21, 22, 59])
def test_the_window_holds_the_selected_token_and_moves_little(token):
    start = window_start(10, token, 60, 22)
    assert 0 <= start <= 38 and start <= token < start + 22
    if 10 <= token < 32:
        assert start == 10


def test_markup_in_tokens_is_no_markup_on_the_axis(model):
    figure, _ = drawn(model, text="<b>x</b> &amp; <br>", token=0)
    labels = "".join(figure.layout.xaxis.ticktext[1:])
    assert "<" not in labels and "&lt;" in labels


def test_presentation_size_is_readable_and_fits_a_projector(model):
    figure = stage_picture(16)
    resize_picture(figure, 16, ROOM)
    assert figure.layout.font.size >= 20 and figure.data[GATES].textfont.size >= 18
    assert figure.layout.width <= 1110 and DESK.width <= 860
