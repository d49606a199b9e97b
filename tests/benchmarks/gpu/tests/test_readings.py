"""Clocks and power as nvidia-smi reports them, read while a part is running."""

import threading

import pytest

from tests.benchmarks.gpu.readings import Sampler, readings


def test_readings_of_nvidia_smi():
    asked = []
    found = readings(lambda fields: asked.append(fields) or "1980, 3201, 412.50, 45\n")
    assert asked == ["clocks.sm,clocks.mem,power.draw,temperature.gpu"]
    assert found == {"sm_mhz": 1980, "memory_mhz": 3201, "power_w": 412.5, "celsius": 45}


@pytest.mark.parametrize("words", ["", "[N/A], 1, 2, 3", "1, 2"])
def test_readings_that_make_no_sense_are_left_out(words):
    assert readings(lambda _: words) == {}


def test_without_nvidia_smi_nothing_is_read(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert readings() == {}


def test_clocks_are_read_while_the_block_runs_and_not_after_it():
    clocks, enough = iter([1980.0, 1200.0, 1755.0]), threading.Event()

    def read():
        clock = next(clocks, None)
        if clock is None:
            enough.set()
            return {}
        return {"sm_mhz": clock, "memory_mhz": 3201.0, "power_w": clock / 4, "celsius": 50.0}

    with Sampler(read, period=0.001) as sampler:
        assert enough.wait(20)
    assert not sampler.thread.is_alive()
    summary = sampler.summary()
    assert (summary["sm_mhz"], summary["sm_mhz_low"], summary["readings"]) == (1755, 1200, 3)
    assert summary["power_w"] == 1755 / 4 and summary["celsius"] == 50


def test_nothing_to_read_gives_no_summary():
    with Sampler(dict, period=0.001) as sampler:
        pass
    assert sampler.summary() == {}
