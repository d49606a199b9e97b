import math
import random

import pytest

from mini_moe.profiling import fit_power, measure_growth
from mini_moe.profiling import growth as growth_module
from mini_moe.profiling.growth import AXES, Growth, sized
from tests.training.small_run import small_model_config, small_train_config


def test_an_exact_power_law_is_fitted_without_error():
    x = (1, 2, 4, 8)
    power = fit_power(x, [3 * value**1.5 for value in x])
    assert power.exponent == pytest.approx(1.5) and power.factor == pytest.approx(3)
    assert power.error == pytest.approx(0, abs=1e-9)


def test_the_standard_error_matches_the_scatter_of_fits():
    """About two thirds of many noisy fits must be within one standard error (n − 2 = 8)."""
    draw, x, inside, rounds = random.Random(0), [2**n for n in range(10)], 0, 400
    for _ in range(rounds):
        power = fit_power(x, [value * math.exp(draw.gauss(0, 0.3)) for value in x])
        inside += abs(power.exponent - 1) < power.error
    assert 0.58 < inside / rounds < 0.74


@pytest.mark.parametrize(
    ("x", "y"), [((1, 2), (1, 2)), ((1, 2, 3), (1, 2)), ((1, 2, 0), (1, 2, 3)), ((2, 2, 2),) * 2]
)
def test_a_fit_needs_three_different_positive_points(x, y):
    with pytest.raises(ValueError, match="x and y|x: different"):
        fit_power(x, y)


def test_a_bend_shows_between_adjacent_values():
    growth = Growth(axis="tokens", what="forward pass", values=(1, 2, 4),
                    seconds=(1.0, 1.0, 2.0), n_bytes=())  # fmt: skip
    assert growth.last_steps() == [0.0, 1.0]


def test_one_axis_changes_and_the_rest_is_fixed(corpus):
    config, train = small_model_config(corpus), small_train_config()
    assert sized(config, train, "experts", 16)[0].top_k == config.top_k
    assert sized(config, train, "tokens", 64)[1].batch_size == 4
    assert sized(config, train, "context", 64)[1].seq_len == 64
    wide = sized(config, train, "width", 32)[0]
    assert (wide.d_ff, wide.d_expert, wide.n_heads) == (48, 16, 4)
    with pytest.raises(ValueError, match="not divisible by seq_len=16"):
        sized(config, train, "tokens", 40)


@pytest.mark.parametrize("axis", AXES)
def test_every_axis_can_be_measured(corpus, axis):
    values = {"tokens": (16, 32, 64), "experts": (2, 4, 8), "top_k": (1, 2, 4),
              "width": (8, 16, 32), "context": (8, 16, 32)}[axis]  # fmt: skip
    growth = measure_growth(
        small_model_config(corpus), axis, values, train_config=small_train_config(), corpus=corpus,
        what="forward pass", rounds=1,
    )  # fmt: skip
    assert growth.n_bytes == () and len(growth.seconds) == 3 and min(growth.seconds) > 0


def test_a_training_steps_memory_is_included(corpus):
    growth = measure_growth(
        small_model_config(corpus), "experts", (2, 4, 8), train_config=small_train_config(),
        corpus=corpus, rounds=1,
    )  # fmt: skip
    assert list(growth.n_bytes) == sorted(growth.n_bytes) and len(set(growth.n_bytes)) == 3
    assert growth.time.error >= 0 and growth.memory.exponent > 0


@pytest.mark.gpu
@pytest.mark.parametrize("what", ["training step", "forward pass"])
def test_growth_on_the_gpu_waits_for_the_gpu(corpus, what, monkeypatch):
    devices, timed = [], growth_module.seconds_of
    monkeypatch.setattr(
        growth_module,
        "seconds_of",
        lambda call, device: devices.append(device.type) or timed(call, device),
    )
    growth = measure_growth(
        small_model_config(corpus), "top_k", (1, 2, 4), train_config=small_train_config(),
        corpus=corpus, what=what, rounds=1, device="cuda",
    )  # fmt: skip
    assert set(devices) == {"cuda"} and min(growth.seconds) > 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"axis": "depth"},
        {"values": (1, 2)},
        {"rounds": 0},
        {"what": "both"},
        {"values": (3, 3, 3)},
        {"device": "tpu"},
    ],
)
def test_bad_arguments_are_named(corpus, wrong):
    given = {"axis": "top_k", "values": (1, 2, 4)} | wrong
    with pytest.raises(ValueError, match="expected"):
        measure_growth(small_model_config(corpus), corpus=corpus, **given)
