"""The replay shows the log, record by record."""

import json

import numpy as np
import pytest
import torch

from mini_moe.routing import load_entropy, max_violation, noise_floor
from mini_moe.text import data_folder
from mini_moe.views.stage import replay
from mini_moe.views.stage.picture import DESK
from mini_moe.views.stage.replay import History, draw_replay, replay_picture, replay_rows
from mini_moe.views.style import summary_of

FOLDER = data_folder() / "checkpoints" / "tiny"


@pytest.fixture(scope="module")
def history():
    return History(FOLDER)


def test_a_record_is_drawn_as_it_was_logged(history):
    lines = (FOLDER / "log.jsonl").read_text("utf-8").splitlines()
    record = json.loads(lines[40])
    figure = replay_picture(history, DESK, choices_per_step=16_384)
    draw_replay(figure, history, 40, place=1, expert=6)
    assert figure.layout.annotations[0].text == f"Load at step {record['step']}"
    np.testing.assert_allclose(figure.data[replay.LOAD].y, record["load"][1], rtol=1e-5)
    now = figure.data[replay.NOW]
    assert now.x == (record["step"],)
    assert now.y[0] == pytest.approx(record["max_violation"][1], abs=1e-3)
    assert figure.data[replay.LOAD].marker.pattern.shape[6] == "/"
    assert figure.data[replay.CHANCE].y[0] == pytest.approx(noise_floor(16, 1024.0))
    assert f"At step {record['step']} of 2600" in summary_of(figure)


def test_the_curves_are_the_measures_of_the_loads(history):
    figure = replay_picture(history, DESK)
    draw_replay(figure, history, 0, place=2)
    np.testing.assert_allclose(figure.data[replay.VIOLATION].y, max_violation(history.load)[:, 2])
    np.testing.assert_allclose(figure.data[replay.ENTROPY].y, load_entropy(history.load)[:, 2])
    assert figure.data[replay.CHANCE].y == ()


def test_the_log_comes_as_folder_file_or_records(history):
    records = [json.loads(line) for line in (FOLDER / "log.jsonl").open(encoding="utf-8")]
    for log in (FOLDER / "log.jsonl", str(FOLDER), records):
        assert torch.equal(History(log).load, history.load)


def test_a_log_without_loads_is_refused():
    with pytest.raises(ValueError, match="run_log: records with expert load"):
        History([{"step": 1, "loss": 2.0}])


def test_the_table_begins_and_ends_with_the_log(history):
    rows = replay_rows(history, 0)
    assert rows[0][0] == "10" and rows[-1][0] == "2600" and len(rows) <= 22
