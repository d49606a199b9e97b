"""The expert bias moves against the load in fixed steps, and that evens out the load."""

import pytest
import torch

from mini_moe.model import Transformer
from mini_moe.routing import max_violation
from mini_moe.training.balance import (
    UPDATES,
    count_choices,
    update_all_biases,
    update_expert_bias,
)
from tests.helpers import random_tokens, small_config, small_model, without_shape_hook
from tests.training.small_run import small_train


def biases(model: Transformer) -> list[torch.Tensor]:
    return [buffer for name, buffer in model.named_buffers() if "correction_bias" in name]


def test_bias_moves_by_the_rate_against_the_sign_of_the_load_error():
    bias = torch.tensor([0.5, 0.0, -0.25, 0.1])
    update_expert_bias(bias, torch.tensor([9, 3, 5, 3]), rate=0.125)  # mean 5
    assert bias.tolist() == pytest.approx([0.375, 0.125, -0.25, 0.225])


def test_even_load_and_zero_rate_leave_the_bias():
    bias = torch.randn(4)
    before = bias.clone()
    update_expert_bias(bias, torch.full((4,), 6), rate=0.1)
    update_expert_bias(bias, torch.tensor([24, 0, 0, 0]), rate=0.0)
    assert torch.equal(bias, before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("change", ["to", "type", "shortcut"])
def test_the_bias_keeps_its_bits_in_a_model_of_half_precision(dtype, change):
    model = small_model(n_mtp_layers=1)
    before = [bias.clone() for bias in biases(model)]
    shortcut = {torch.bfloat16: model.bfloat16, torch.float16: model.half}[dtype]
    (shortcut() if change == "shortcut" else getattr(model, change)(dtype)).float().to(dtype)
    assert model.layers[1].mlp.gate.weight.dtype == dtype
    for old, new in zip(before, biases(model), strict=True):
        assert new.dtype == torch.float32 and torch.equal(old, new)
    assert all(bias.is_meta and bias.dtype == torch.float32 for bias in biases(model.to("meta")))


def test_the_bias_is_fp32_whatever_the_default_type():
    torch.set_default_dtype(torch.bfloat16)
    try:
        model = Transformer(small_config())
    finally:
        torch.set_default_dtype(torch.float32)
    assert model.norm.weight.dtype == torch.bfloat16
    assert {bias.dtype for bias in biases(model)} == {torch.float32}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("update", UPDATES.values())
def test_small_steps_add_up_whatever_the_type_of_the_bias(update, dtype):
    bias, expected = torch.ones(4, dtype=dtype), torch.ones(4)
    for _ in range(100):
        update(bias, torch.tensor([10, 0, 0, 0]), 0.003)
        update(expected, torch.tensor([10, 0, 0, 0]), 0.003)
    torch.testing.assert_close(bias.float(), expected, rtol=1e-5, atol=0)
    assert expected[1:].tolist() == pytest.approx([1.3] * 3, rel=1e-5)


@pytest.mark.parametrize("counts", [[4097, 4095, 4096], [2**26 + 1, 2**26 - 1, 2**26]])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_load_error_of_one_token_has_its_sign(counts, dtype):
    bias = torch.zeros(3, dtype=dtype)
    update_expert_bias(bias, torch.tensor(counts, dtype=torch.int32), 0.125)
    assert bias.tolist() == [-0.125, 0.125, 0.0]


@pytest.mark.parametrize("update", UPDATES.values())
def test_no_choices_are_no_error(update):
    bias = torch.ones(3)
    update(bias, torch.zeros(3, dtype=torch.long), 0.1)
    assert bias.tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("bias", "got"),
    [
        (torch.zeros(3, dtype=torch.int64), "got torch.int64"),
        (torch.zeros(2, 3, dtype=torch.bfloat16)[0], "is no view of another tensor expected"),
    ],
)
def test_a_bias_that_cannot_be_widened_is_refused(bias, got):
    with without_shape_hook(), pytest.raises(ValueError, match=got):
        update_expert_bias(bias, torch.tensor([1, 2, 3]), 0.1)


def test_mean_of_the_bias_drifts_as_the_signs_say():
    bias = torch.zeros(8)
    counts = torch.tensor([57, 1, 1, 1, 1, 1, 1, 1])  # one above the mean of 8, seven below
    for _ in range(10):
        update_expert_bias(bias, counts, rate=0.01)
    assert float(bias.mean()) == pytest.approx(10 * 0.01 * (7 - 1) / 8, rel=1e-5)


def test_counts_are_of_every_layer_and_sum_to_the_choices():
    model = small_model(n_mtp_layers=1)
    routings = []
    hidden = model.hidden(random_tokens(model.config), routings=routings)
    model.mtp_hidden(hidden, random_tokens(model.config, seed=1), 0, routings)
    counts = count_choices(routings)
    assert counts.shape == (3, 8) and counts.sum(dim=1).tolist() == [2 * 12 * 2] * 3
    one_by_one = [sum(int(i) == e for i in routings[1].expert_ids.flatten()) for e in range(8)]
    assert counts[1].tolist() == one_by_one


def test_each_router_gets_the_counts_of_its_own_layer():
    model = small_model(n_mtp_layers=1)
    before = [bias.clone() for bias in biases(model)]
    counts = torch.zeros(3, 8, dtype=torch.long)
    for layer in range(3):
        counts[layer, layer] = 8  # expert i is overloaded in layer i
    update_all_biases(model, counts, rate=0.25)
    for layer, (old, new) in enumerate(zip(before, biases(model), strict=True)):
        expected = torch.full((8,), 0.25)
        expected[layer] = -0.25
        torch.testing.assert_close(new - old, expected)


def test_a_router_without_bias_stays_without():
    model = small_model(expert_bias=False)
    update_all_biases(model, torch.ones(2, 8, dtype=torch.long), rate=0.1)
    assert biases(model) == []


@pytest.mark.parametrize(("fraction", "moves"), [(0.0, 10), (0.3, 7), (1.0, 0)])
def test_the_bias_is_frozen_in_the_last_part_of_a_run(corpus, fraction, moves):
    run = small_train(corpus, steps=10, bias_update_rate=0.5, bias_freeze_fraction=fraction)
    (bias,) = biases(run.model)
    expected = torch.zeros(4)
    for record in run.log[:moves]:
        expected += 0.5 * torch.sign(0.25 - torch.tensor(record["load"][0]))
    assert torch.equal(bias, expected) and (bias.abs().sum() > 0) == (moves > 0)


def test_bias_updates_even_out_a_skewed_start(corpus, monkeypatch):
    def skewed(self, config, build=Transformer.__init__):
        build(self, config)
        biases(self)[0].copy_(torch.tensor([0.4, 0.0, 0.0, -0.4]))

    monkeypatch.setattr(Transformer, "__init__", skewed)
    options = {"steps": 60, "batch_size": 8, "balance_loss_weight": 0.0, "learning_rate": 1e-3}
    options |= {"adamw_learning_rate": 1e-3, "bias_freeze_fraction": 0.0}
    violation = {}
    for rate in (0.0, 0.02):
        run = small_train(corpus, bias_update_rate=rate, **options)
        last = torch.tensor([record["load"] for record in run.log[-10:]]).mean(dim=0)
        violation[rate] = float(max_violation(last))
    assert violation[0.0] > 0.5 and violation[0.02] < 0.5 * violation[0.0], violation


def test_logged_load_is_that_of_the_batch(corpus):
    (record,) = small_train(corpus, steps=1).log
    load = torch.tensor(record["load"])
    assert load.shape == (1, 4) and float(load.sum()) == pytest.approx(1, abs=1e-5)
    assert record["max_violation"] == pytest.approx(max_violation(load).tolist(), abs=1e-4)
