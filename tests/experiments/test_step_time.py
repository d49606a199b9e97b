"""Step times are matched with the arms they belong to."""

import dataclasses

import pytest

from mini_moe.experiments import seconds_per_step
from mini_moe.experiments.step_time import distinct_models


def test_a_model_is_timed_once_under_its_first_name(arms):
    longer = dataclasses.replace(arms["moe"].training, steps=99)
    arms["moe longer"] = dataclasses.replace(arms["moe"], training=longer)
    assert list(distinct_models(arms)) == ["moe", "dense"]


def test_arms_share_the_time_of_their_model():
    times = [{"arm": "a", "model_config": {"d": 1}, "median": 0.5},
             {"arm": "b", "model_config": {"d": 2}, "median": 0.7}]  # fmt: skip
    runs = [{"arm": "a, longer", "model_config": {"d": 1}}, {"arm": "b", "model_config": {"d": 2}}]
    assert seconds_per_step(times, runs) == {"a, longer": 0.5, "b": 0.7}


def test_an_arm_without_a_time_is_named():
    with pytest.raises(ValueError, match="one for the model of arm 'c' expected"):
        seconds_per_step([], [{"arm": "c", "model_config": {}}])
