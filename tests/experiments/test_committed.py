"""The results in the repository belong to the arms that the code defines."""

import pytest

from mini_moe.experiments import DESIGNS, load_results, seconds_per_step
from mini_moe.experiments.measures import settings
from mini_moe.experiments.records import check_same_settings, results_path


@pytest.fixture(scope="module", params=sorted(DESIGNS))
def committed(request):
    """Return the name, runs and arms of one experiment."""
    return request.param, load_results(request.param), DESIGNS[request.param]()


def test_every_arm_has_at_least_three_seeds(committed):
    _, runs, arms = committed
    seeds = {name: {run["seed"] for run in runs if run["arm"] == name} for name in arms}
    assert {name: len(found) for name, found in seeds.items() if len(found) < 3} == {}


def test_every_run_was_made_with_the_settings_of_its_arm(committed):
    name, runs, arms = committed
    for run in runs:
        check_same_settings(results_path(name), run, settings(arms[run["arm"]], run["seed"]))


def test_every_run_records_how_and_where_it_was_made(committed):
    name, runs, _ = committed
    for run in runs:
        assert run["command"].startswith(f"python -m mini_moe.experiments {name}")
        assert {"cpu", "cores", "threads", "torch", "date"} <= set(run["machine"])


def test_curves_end_at_the_last_training_step(committed):
    _, runs, _ = committed
    for run in runs:
        assert run["curve"][-1][0] == run["train_config"]["steps"]
        steps = [step for step, _, _ in run["curve"]]
        assert steps == sorted(set(steps))


def test_every_arm_of_the_comparison_at_equal_time_was_timed():
    times = load_results("step_time")
    pace = seconds_per_step(times, load_results("sparsity"))
    assert all(len(run["seconds"]) >= 15 for run in times)
    assert set(pace) == set(DESIGNS["sparsity"]()) and min(pace.values()) > 0
