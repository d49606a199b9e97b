"""The balance laboratory: sliders act on the next step, pictures show the records, runs replay."""

import dataclasses
import threading

import pytest
import torch

from mini_moe import TrainConfig, presets
from mini_moe.routing import max_violation, noise_floor
from mini_moe.text import Corpus, load_corpus
from mini_moe.training import train
from mini_moe.views.lab import balance_arms, balance_live, train_arms
from mini_moe.views.lab.arms import AUXILIARY, LOSS_FREE, NONE
from mini_moe.views.lab.balance_lab import ARMS, BalanceLab

STEPS = 4
MODEL = dataclasses.replace(
    presets.lab(), vocab_size=300, d_model=16, d_ff=16, d_expert=8, n_heads=2, n_routed_experts=4
)
TRAINING = TrainConfig(
    bf16=False,
    steps=STEPS,
    batch_size=2,
    seq_len=16,
    eval_every=STEPS,
    eval_tokens=32,
    bias_freeze_fraction=0.0,
)
EVEN, ONE_SIDED = [0.25] * 4, [0.5, 0.5, 0.0, 0.0]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("The mill stood by the river, and the river went by the mill. " * 60)
    return Corpus.from_text(path)


@pytest.fixture
def lab():
    return BalanceLab(MODEL, TRAINING, 0.01, 0.1)


def record(arm, step, load=EVEN, **more):
    """Make a log record of two layers: one with `load`, one even."""
    loads = [load, EVEN]
    violations = [float(max_violation(torch.tensor(layer))) for layer in loads]
    fields = {"arm": arm, "step": step, "loss": 5.0 / step, "seconds": float(step)}
    fields |= {"bias_update_rate": 0.01, "balance_loss_weight": 0.0}
    return fields | {"load": loads, "max_violation": violations} | more


def filled(lab, steps=STEPS):
    """Fill every arm with records; without balancing, two experts do all the work from step 2."""
    for step in range(1, steps + 1):
        for arm in ARMS:
            collapsed = arm == NONE and step > 1
            lab.update(record(arm, step, ONE_SIDED if collapsed else EVEN))
    lab.draw()
    return lab


def bars(lab, arm):
    return list(lab.figure.data[len(ARMS) + 2 + ARMS.index(arm)].y)


# the runs


def test_arms_start_with_the_same_loss_and_then_diverge(corpus):
    logs = [run.log for run in train_arms(MODEL, balance_arms(TRAINING, 0.1, 1.0), corpus).values()]
    assert len({log[0]["loss"] for log in logs}) == 1
    assert len({log[-1]["loss"] for log in logs}) == 3


def test_an_arm_is_the_run_that_train_makes_alone(corpus):
    together = train_arms(MODEL, balance_arms(TRAINING, 0.1, 1.0), corpus)[LOSS_FREE]
    alone = train(MODEL, balance_arms(TRAINING, 0.1, 1.0)[LOSS_FREE], corpus, progress=False)
    assert [r["load"] for r in together.log] == [r["load"] for r in alone.log]
    pairs = zip(
        together.model.state_dict().values(), alone.model.state_dict().values(), strict=True
    )
    assert all(torch.equal(a, b) for a, b in pairs)


def test_each_record_remembers_what_it_was_made_with(corpus):
    def adjust(arm, config):
        return dataclasses.replace(config, bias_update_rate=0.5) if arm == LOSS_FREE else config

    runs = train_arms(MODEL, balance_arms(TRAINING, 0.1, 0.25), corpus, adjust=adjust)
    knobs = {
        arm: {(r["bias_update_rate"], r["balance_loss_weight"]) for r in run.log}
        for arm, run in runs.items()
    }
    assert knobs == {NONE: {(0.0, 0.0)}, AUXILIARY: {(0.0, 0.25)}, LOSS_FREE: {(0.5, 0.0)}}


def test_a_stopped_run_has_as_many_steps_of_every_arm(corpus):
    runs = train_arms(MODEL, balance_arms(TRAINING, 0.1, 0.1), corpus, should_stop=lambda: True)
    assert [(len(run.log), run.stopped) for run in runs.values()] == [(1, True)] * 3


def test_the_callers_random_state_is_unchanged(corpus):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    train_arms(MODEL, balance_arms(TRAINING, 0.1, 0.1), corpus)
    assert torch.equal(torch.rand(1), expected)


def test_arms_of_different_lengths_are_refused(corpus):
    arms = {"short": TRAINING, "long": dataclasses.replace(TRAINING, steps=9)}
    with pytest.raises(ValueError, match=r"got \[4, 9\]"):
        train_arms(MODEL, arms, corpus)
    with pytest.raises(ValueError, match="arms"):
        train_arms(MODEL, {}, corpus)


# the view


def test_sliders_change_their_own_arm_only(lab):
    lab.rate.value, lab.weight.value = 0.3, 0.001
    arms = balance_arms(TRAINING, 0.01, 0.1)
    now = {arm: lab.adjust(arm, config) for arm, config in arms.items()}
    assert now[NONE] == arms[NONE]
    assert now[LOSS_FREE] == dataclasses.replace(arms[LOSS_FREE], bias_update_rate=0.3)
    assert now[AUXILIARY] == dataclasses.replace(arms[AUXILIARY], balance_loss_weight=0.001)


def test_a_slider_moved_while_it_trains_acts_on_the_next_step(corpus, monkeypatch):
    moved = threading.Event()

    def adjust(self, arm, config):
        if arm == LOSS_FREE and len(self.logs[arm]) == 2:
            self.rate.value = 0.1
            moved.set()
        return real_adjust(self, arm, config)

    real_adjust = BalanceLab.adjust
    monkeypatch.setattr(BalanceLab, "adjust", adjust)
    runs = balance_live(MODEL, TRAINING, corpus, rate=0.01).result()
    assert moved.is_set()
    assert [r["bias_update_rate"] for r in runs[LOSS_FREE].log] == [0.01, 0.01, 0.1, 0.1]


def test_lines_and_bars_show_the_records(lab):
    lab.layer.value = lab.layer.options[0]
    filled(lab)
    none, _, loss_free, floor, _ = lab.figure.data[:5]
    assert list(none.x) == [1, 2, 3, 4]
    assert list(none.y) == [0.0, 1.0, 1.0, 1.0]
    assert list(loss_free.y) == [0.0] * 4
    assert list(floor.y) == pytest.approx([noise_floor(4, 2 * 16 * 2 / 4)] * 2)
    assert bars(lab, NONE) == [2.0, 2.0, 0.0, 0.0]
    assert bars(lab, LOSS_FREE) == [1.0] * 4
    assert repr(lab) == (
        "MaxVio at step 4: no balancing 1.00, auxiliary loss 0.00, loss-free bias 0.00."
    )


def test_the_layer_can_be_chosen(lab):
    lab.layer.value = lab.layer.options[0]
    filled(lab)
    lab.layer.value = lab.layer.options[1]
    assert bars(lab, NONE) == [1.0] * 4
    assert list(lab.figure.data[0].y) == [0.0] * 4


def test_numbers_are_shown_next_to_chance(lab):
    lab.layer.value = lab.layer.options[0]
    filled(lab)
    none = lab.numbers.value.split("no balancing")[1].split("</tr>")[0]
    for number in ("1.250", "1.000", "0.500", ">2<"):  # loss; MaxVio and CV; entropy; dead experts
        assert number in none
    assert "by chance" in lab.numbers.value


def test_while_it_trains_the_step_slider_follows_and_cannot_be_moved(lab):
    filled(lab, steps=3)
    assert (lab.step.value, lab.step.disabled) == (3, True)
    assert "step 3 of 4" in lab.status.value


def test_afterwards_the_step_slider_replays_the_run(lab):
    lab.layer.value = lab.layer.options[0]
    filled(lab).finish()
    lab.step.value = 1
    assert bars(lab, NONE) == [1.0] * 4
    assert list(lab.figure.data[len(ARMS) + 1].x) == [1, 1]
    lab.step.value = 2
    assert bars(lab, NONE) == [2.0, 2.0, 0.0, 0.0]
    assert list(lab.figure.data[0].x) == [1, 2, 3, 4]  # the lines stay complete
    assert lab.rate.disabled and lab.weight.disabled and not lab.play.disabled


def test_a_run_stopped_early_replays_the_steps_it_made(lab):
    filled(lab, steps=2)
    lab.request_stop()
    lab.finish()
    assert (lab.step.max, lab.play.max, lab.button.description) == (2, 2, "Stopped")
    assert "2 of 4 steps" in lab.status.value


def test_a_failure_before_the_first_step_is_shown(lab):
    lab.finish(ArithmeticError("loss nan"))
    assert "loss nan" in lab.error.value
    assert (lab.button.description, lab.step.disabled) == ("Failed", True)


def test_a_record_that_cannot_be_drawn_is_reported(lab):
    for arm in ARMS:
        lab.update(record(arm, 1) | {"load": []})
    lab.draw()
    assert "IndexError" in lab.error.value


def test_there_is_one_figure_and_it_keeps_its_size(lab):
    assert [type(child).__name__ for child in lab.view.children].count("FigureWidget") == 1
    filled(lab)
    assert (lab.figure.layout.width, lab.figure.layout.height) == (830, 560)
    assert lab.figure.layout.yaxis.range == (0, 4 / 2 - 0.8)


def test_the_stop_button_ends_all_three_and_keeps_them(corpus, monkeypatch):
    config = dataclasses.replace(TRAINING, steps=10_000)
    live = balance_live(MODEL, config, corpus)
    live.dashboard.button.click()
    runs = live.result()
    assert set(runs) == set(ARMS)
    lengths = {len(run.log) for run in runs.values()}
    assert len(lengths) == 1 and lengths.pop() < 10_000


@pytest.mark.parametrize("knobs", [{"rate": -0.1}, {"weight": -1.0}, {"rate": float("nan")}])
def test_impossible_knobs_are_refused_before_anything_runs(knobs):
    with pytest.raises(ValueError, match="bias_update_rate|balance_loss_weight"):
        balance_live(MODEL, TRAINING, None, **knobs)


def test_a_dense_model_is_refused():
    dense = dataclasses.replace(MODEL, n_dense_layers=3)
    with pytest.raises(ValueError, match="mixture of experts"):
        balance_live(dense, TRAINING, None)


def test_the_corpus_of_the_course_is_the_default(monkeypatch, corpus):
    import mini_moe.views.lab.arms as room

    assert room.load_corpus is load_corpus
    monkeypatch.setattr(room, "load_corpus", lambda: corpus)
    assert len(train_arms(MODEL, {"only": TRAINING})["only"].log) == STEPS
