"""The dashboard draws the log, stops on request and hides no error."""

import asyncio
import signal
import threading

import pytest

from mini_moe import TrainConfig, presets
from mini_moe.routing import noise_floor
from mini_moe.views.live import dashboard as room
from mini_moe.views.live import run as live_run
from mini_moe.views.live.dashboard import TrainingDashboard, records_summary, train_live
from mini_moe.views.live.run import LiveRun

STEPS = 12
CONFIG = TrainConfig(steps=STEPS, batch_size=2, seq_len=16)


def record(step, **more):
    load = [[0.4] + [0.04] * 15, [1 / 16] * 16, [1 / 16] * 16]
    fields = {"step": step, "loss": 8.0 / step, "tokens_per_second": 900.0, "seconds": 0.5 * step}
    return fields | {"load": load, "max_violation": [5.4, 0.0, 0.0]} | more


@pytest.fixture
def dashboard():
    return TrainingDashboard(presets.tiny(), CONFIG)


def test_every_record_is_drawn(dashboard):
    for step in range(1, STEPS + 1):
        dashboard.update(record(step))
    dashboard.finish()
    loss, violation, floor, load, even, domains = dashboard.figure.data
    assert list(loss.x) == list(range(1, STEPS + 1))
    assert list(loss.y) == [8.0 / step for step in range(1, STEPS + 1)]
    assert list(violation.y) == pytest.approx([1.8] * STEPS)
    assert list(floor.y) == pytest.approx([noise_floor(16, 2 * 16 * 4 / 16)] * 2)
    assert list(load.y) == record(1)["load"][0]
    assert list(even.y) == [1 / 16] * 2
    assert dashboard.bar.value == STEPS
    assert "<b>step 12 of 12</b> · loss 0.667 · 900 tokens/s · 6 s" == dashboard.status.value
    assert repr(dashboard) == (
        "From step 1 to 12 the training loss went from 8.00 to 0.67, MaxVio is 1.80."
    )


def test_evaluations_appear_per_domain(dashboard):
    dashboard.update(record(1, validation={"code": 3.25, "math": 2.0}))
    dashboard.update(record(2))
    dashboard.draw()
    domains = dashboard.figure.data[room.DOMAINS]
    assert (list(domains.y), list(domains.x)) == (["code", "math"], [3.25, 2.0])


def test_the_layer_can_be_chosen(dashboard):
    dashboard.update(record(1))
    dashboard.layer.value = 2
    assert list(dashboard.figure.data[room.LOAD].y) == [1 / 16] * 16


def test_long_runs_are_thinned_and_keep_the_newest_step():
    dashboard = TrainingDashboard(presets.tiny(), TrainConfig(steps=2000))
    for step in range(1, 1002):
        dashboard.update(record(step))
    dashboard.finish()
    steps = dashboard.figure.data[room.LOSS].x
    assert len(steps) <= room.MAX_POINTS
    assert steps[-1] == 1001


def test_it_draws_at_most_four_times_a_second(dashboard, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(live_run.time, "monotonic", lambda: now[0])
    drawn = []
    for step in range(1, 9):
        now[0] += 0.1
        dashboard.update(record(step))
        drawn.append(len(dashboard.figure.data[room.LOSS].x or ()))
    assert drawn == [1, 1, 1, 4, 4, 4, 7, 7]


def test_a_record_that_cannot_be_drawn_is_reported_and_training_goes_on(dashboard):
    dashboard.update({"step": 1, "loss": 2.0, "load": [], "max_violation": [1.0]})
    assert "IndexError" in dashboard.error.value
    dashboard.records.clear()
    dashboard.update(record(1))
    dashboard.draw()
    assert dashboard.error.value == ""


def test_a_dense_model_has_a_dashboard_too():
    import dataclasses

    dense = dataclasses.replace(presets.tiny(), n_dense_layers=4)
    dashboard = TrainingDashboard(dense, CONFIG)
    dashboard.update({"step": 1, "loss": 2.0, "tokens_per_second": 1.0})
    dashboard.finish()
    assert dashboard.error.value == ""
    assert "MaxVio" not in records_summary(dashboard.records)


def steps_until_stopped(model_config, train_config, corpus, *, on_step, should_stop, **rest):
    """A stand-in for `train`: does steps until it should stop."""
    step = 0
    while not should_stop():
        step += 1
        on_step(record(step))
    return step


def test_the_stop_button_ends_a_run_that_then_returns_its_result(capsys):
    live = train_live(presets.tiny(), CONFIG, train=steps_until_stopped)
    assert live.is_running
    live.dashboard.button.click()
    assert live.result() >= 0
    assert not live.is_running
    assert (live.dashboard.button.description, live.dashboard.button.disabled) == ("Stopped", True)


def test_an_error_of_the_training_is_raised_and_shown():
    def fails(*given, **named):
        raise ArithmeticError("loss is nan at step 7")

    live = train_live(presets.tiny(), CONFIG, train=fails)
    with pytest.raises(ArithmeticError, match="step 7"):
        live.result()
    assert "loss is nan at step 7" in live.dashboard.error.value
    assert live.dashboard.button.description == "Failed"


def interrupted(live, monkeypatch, times):
    """Interrupt the first `times` waits for the run's end, like ■."""
    real_wait, calls = live._ended.wait, []

    def wait(timeout=None):
        calls.append(timeout)
        if len(calls) <= times:
            raise KeyboardInterrupt
        return real_wait(timeout)

    monkeypatch.setattr(live._ended, "wait", wait)


def test_interrupting_the_wait_stops_the_training_and_keeps_its_result(
    monkeypatch, dashboard, capsys
):
    live = LiveRun(dashboard, lambda: dashboard.stop.wait(30) and "the model so far")
    interrupted(live, monkeypatch, times=1)
    assert live.result() == "the model so far"
    assert "Training stops after this step" in capsys.readouterr().out


def test_a_second_interrupt_gives_up_waiting(monkeypatch, dashboard):
    release = threading.Event()
    live = LiveRun(dashboard, lambda: release.wait(30))
    interrupted(live, monkeypatch, times=2)
    with pytest.raises(KeyboardInterrupt):
        live.result()
    assert dashboard.stop.is_set()
    release.set()


@pytest.fixture
def interrupts_are_heard():
    """Enable interrupts; processes started by a shell in the background ignore them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interrupts_are_heard")
def test_a_real_interrupt_is_not_taken_for_the_end_of_the_run(monkeypatch, dashboard):
    import _thread

    waits = threading.Semaphore(0)

    def work():
        waits.acquire()  # the main thread waits for the end
        _thread.interrupt_main()
        dashboard.stop.wait()
        while waits.acquire(blocking=False):
            pass
        waits.acquire()  # it was told to stop the run, and waits again
        return "the model so far"

    live = LiveRun(dashboard, work)
    real_wait = live._ended.wait

    def wait(timeout=None):
        waits.release()
        return real_wait(timeout)

    monkeypatch.setattr(live._ended, "wait", wait)
    assert live.result() == "the model so far"


def test_train_gets_its_arguments():
    seen = {}

    def train(model_config, train_config, corpus, **named):
        seen.update(named, corpus=corpus)
        return "run"

    live = train_live(presets.tiny(), CONFIG, "text", folder="here", train=train)
    assert live.result() == "run"
    assert (seen["corpus"], seen["folder"], seen["progress"]) == ("text", "here", False)
    assert seen["should_stop"]() is False


def awaited(live):
    """Return what `await live` gives in a notebook."""

    async def cell():
        return await live

    return asyncio.run(cell())


def test_awaiting_gives_the_outcome_and_raises_what_stopped_the_run(dashboard):
    assert awaited(LiveRun(dashboard, lambda: "run")) == "run"

    def fails():
        raise ArithmeticError("loss is nan at step 7")

    with pytest.raises(ArithmeticError, match="step 7"):
        awaited(LiveRun(dashboard, fails))


def test_while_a_cell_awaits_other_callbacks_run(dashboard):
    async def cell():
        live = LiveRun(dashboard, lambda: dashboard.stop.wait(30))
        asyncio.get_running_loop().call_later(0.01, dashboard.request_stop)
        return await live

    assert asyncio.run(cell()) is True


def test_an_awaiting_cell_that_is_cancelled_stops_the_training(dashboard, capsys):
    async def cell():
        live = LiveRun(dashboard, lambda: dashboard.stop.wait(30) and "the model so far")
        waiting = asyncio.ensure_future(live)
        await asyncio.sleep(0.01)
        waiting.cancel()
        return await waiting

    assert asyncio.run(cell()) == "the model so far"
    assert "Training stops after this step" in capsys.readouterr().out
