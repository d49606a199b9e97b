import pytest
import torch

from mini_moe.ops import compiled
from mini_moe.profiling import limits as limits_module
from mini_moe.profiling import machine_limits
from mini_moe.profiling.limits import Limits, best_seconds


@pytest.fixture(scope="module")
def measured():
    return machine_limits(budget=0.05)


def test_all_limits_are_positive(measured):
    assert min(*measured.flops.values(), measured.memory_bytes, measured.call_seconds) > 0
    assert measured.cache_bytes >= measured.memory_bytes
    assert set(measured.flops) == set(measured.flops_from) == {"float32", "bfloat16"}


def test_a_machine_is_measured_once(measured, monkeypatch):
    monkeypatch.setattr(limits_module, "best_seconds", None)
    assert machine_limits(budget=0.05) is measured


def test_the_fastest_product_is_named(measured):
    for origin in measured.flops_from.values():
        assert " × " in origin
        assert origin.startswith("torch") or not compiled.WHY_NOT


def test_least_seconds_of_the_three_limits():
    limits = Limits(
        device="cpu", threads=1, flops={"bfloat16": 100.0}, flops_from={"bfloat16": "torch"},
        memory_bytes=10.0, cache_bytes=20.0, call_seconds=0.5,
    )  # fmt: skip
    assert limits.seconds(200, 50, 3) == {"compute": 2.0, "bytes": 5.0, "calls": 1.5}
    assert "torch" in str(limits)


def test_the_fastest_of_several_calls_counts():
    clock = iter([0.0, 5.0, 6.0, 6.0, 9.0, 9.0, 10.0, 10.0, 10.0, 10.0])
    calls = []
    original = limits_module.time.perf_counter
    limits_module.time.perf_counter = lambda: next(clock)
    try:
        assert best_seconds(lambda: calls.append(1), budget=0.0, least=3) == 1.0
    finally:
        limits_module.time.perf_counter = original
    assert len(calls) == 4  # including one warm-up call


def test_a_device_without_numbers_is_refused():
    with pytest.raises(ValueError, match="meta"):
        machine_limits(torch.device("meta"))


@pytest.mark.parametrize("budget", [0, -1.0, float("nan")])
def test_a_budget_must_be_positive(budget):
    with pytest.raises(ValueError, match="budget"):
        machine_limits(budget=budget)
