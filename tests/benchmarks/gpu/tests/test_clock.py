"""Alternating peers, their statistics, which are left out and why, and the budget."""

import pytest
import torch

from tests.benchmarks.gpu.clock import (
    FEWEST,
    MOST,
    Clock,
    TimeKeeper,
    compare,
    relative_error,
    summary,
)
from tests.benchmarks.gpu.tests.stand_ins import Ticks, cpu_bench, pretend_cuda


def tick_clock(step=1e-3):
    return Clock("cpu", now=Ticks(step), flush_bytes=64)


def test_median_and_quartiles():
    found = summary([1.0, 2.0, 3.0, 4.0, 5.0])
    assert found == {"ms": 3000, "ms_low": 2000, "ms_high": 4000, "runs": 5}


def test_a_call_is_timed_between_two_readings():
    assert tick_clock(0.25).seconds(lambda: None) == 0.25


def test_caches_are_flushed_before_every_call():
    clock, seen = tick_clock(), []
    clock.scrap.zero_()
    clock.seconds(lambda: seen.append(clock.scrap.clone()))
    assert seen[0].tolist() == [1] * 64


def test_peers_take_turns():
    order = []
    calls = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
    compare(tick_clock(), calls, seconds=0.01)
    rounds = order[6:]  # after three calls of each to try it out
    assert rounds == ["a", "b"] * (len(rounds) // 2)


@pytest.mark.parametrize(("seconds", "runs"), [(1e-9, FEWEST), (0.02, 10), (1e9, MOST)])
def test_rounds_fit_the_seconds(seconds, runs):
    calls = {"a": lambda: None, "b": lambda: None}  # a millisecond each
    assert {row["runs"] for row in compare(tick_clock(), calls, seconds=seconds).values()} == {runs}


def test_a_peer_that_fails_is_left_out_with_its_reason():
    def broken():
        raise RuntimeError("no kernel image\nmore words")

    found = compare(tick_clock(), {"broken": broken, "fine": lambda: None})
    assert found["broken"] == {"why_not": "RuntimeError: no kernel image"}
    assert "ms" in found["fine"]


def test_a_slow_peer_is_left_out():
    found = compare(tick_clock(step=5.0), {"slow": lambda: None})
    assert found["slow"]["why_not"] == "too slow: 5.0 s per call"


def test_a_wrong_result_is_not_timed():
    right = torch.arange(8.0)
    calls = {"right": lambda: right.clone(), "wrong": lambda: right + 1, "nan": lambda: right / 0}
    found = compare(tick_clock(), calls, dict.fromkeys(calls, [right]))
    assert found["right"]["error"] == 0
    assert found["wrong"]["why_not"].startswith("wrong result")
    assert found["nan"]["why_not"].startswith("wrong result")


def test_a_result_that_lay_there_before_does_not_count():
    right = torch.arange(8.0)
    out, calls = right.clone(), []
    found = compare(tick_clock(), {"lazy": lambda: calls.append(1) or out}, {"lazy": [right]})
    assert found["lazy"]["why_not"].startswith("wrong result")


def test_relative_error_is_of_the_whole():
    assert relative_error(torch.tensor([3.0, 0.0]), torch.tensor([3.0, 4.0])) == pytest.approx(0.8)
    with pytest.raises(ValueError, match=r"shape \[2\] expected, got \[1\]"):
        relative_error(torch.ones(1), torch.ones(2))


def test_shares_leave_what_is_reserved():
    keeper = TimeKeeper(100, now=lambda: 0.0)
    assert keeper.share(30) == 30
    assert keeper.share(200) == 100
    assert keeper.share(200, reserved=40) == 60
    assert keeper.share(200, reserved=400) == 0


def test_time_runs_out_and_not_below_zero():
    keeper = TimeKeeper(2.5, now=Ticks(1.0))
    assert [keeper.left() for _ in range(4)] == [1.5, 0.5, 0.0, 0.0]


def test_a_case_for_which_no_time_is_left_is_named():
    bench, rows = cpu_bench(seconds=3)
    bench.measure("layer", {"tokens": 8}, {"a": lambda: None}, seconds=2)
    assert rows == [{"left_out": "layer tokens 8: no time left"}]


def test_rates_follow_from_the_median():
    bench, rows = cpu_bench(step=2e-3)
    bench.measure("layer", {}, {"a": lambda: None}, flops=4e12, n_bytes=6e9, tokens=10)
    rates = {"ms": 2, "tflop_s": 2000, "gb_s": 3000, "tokens_s": 5000}
    assert {name: rows[0][name] for name in rates} == pytest.approx(rates)


def gpu_clock(monkeypatch):
    pretend_cuda(monkeypatch)
    clock = tick_clock()
    clock.on_gpu = True
    return clock


def test_on_a_gpu_events_tell_the_time(monkeypatch):
    clock = gpu_clock(monkeypatch)
    assert clock.seconds(lambda: None) == 2e-3
    assert compare(clock, {"a": lambda: None})["a"]["ms"] == pytest.approx(2)


def test_a_graph_is_captured_once_and_replayed_ever_after(monkeypatch):
    clock, calls = gpu_clock(monkeypatch), []
    replay = clock.replay(lambda: calls.append(1) or "result")
    assert calls == []
    assert [replay() for _ in range(3)] == ["result"] * 3
    assert len(calls) == 3  # two to warm up, one that is captured


def test_a_gpu_that_crashed_does_not_hide_who_crashed_it(monkeypatch):
    def crash():
        raise RuntimeError("an illegal memory access was encountered")

    clock = gpu_clock(monkeypatch)
    monkeypatch.setattr(torch.cuda, "empty_cache", crash)
    found = compare(clock, {"culprit": crash})
    assert "illegal memory access" in found["culprit"]["why_not"]
