"""What the arms have in common and where they differ, checked by counting."""

import dataclasses

import pytest

from mini_moe import TrainConfig, Transformer, presets
from mini_moe.experiments.designs import (
    balance_arms,
    dense_twin,
    parameters,
    sparse_model,
    sparsity_arms,
)
from mini_moe.training.speed import flops_per_token

ARMS = sparsity_arms()
SIZES = {name: parameters(arm.model) for name, arm in ARMS.items()}


def forward_and_backward(config):
    return flops_per_token(Transformer(config), 128)


def test_dense_twin_has_equal_active_flops_within_a_thousandth():
    moe, dense = (forward_and_backward(ARMS[name].model) for name in ("moe", "dense"))
    assert dense == pytest.approx(moe, rel=1e-3)


def test_dense_twin_has_equal_total_parameters_within_a_thousandth():
    assert SIZES["dense total"]["total"] == pytest.approx(SIZES["moe"]["total"], rel=1e-3)


@pytest.mark.parametrize("config", [presets.lab(), presets.tiny(), sparse_model(64, 8, 32)])
@pytest.mark.parametrize("equal", ["active", "total"])
def test_twins_differ_by_at_most_half_a_unit_of_width(config, equal):
    twin = dense_twin(config, equal)
    assert twin.n_moe_layers == 0
    unit = 3 * twin.d_model * twin.n_layers
    assert abs(parameters(twin)[equal] - parameters(config)[equal]) <= unit / 2


def test_impossible_twins_are_refused():
    with pytest.raises(ValueError, match="equal='flops': 'active' or 'total'"):
        dense_twin(presets.lab(), "flops")
    with pytest.raises(ValueError, match="a model with experts, expected"):
        dense_twin(dense_twin(presets.lab(), "total"), "total")


MIXTURES = [name for name, arm in ARMS.items() if arm.model.n_moe_layers]


@pytest.mark.parametrize("name", MIXTURES)
def test_mixtures_have_equal_active_parameters_except_for_their_routers(name):
    routers = ARMS[name].model.n_routed_experts * (128 + 1) * 3
    moe_routers = 31 * (128 + 1) * 3
    difference = SIZES[name]["active"] - SIZES["moe"]["active"]
    assert difference == routers - moe_routers


@pytest.mark.parametrize("name", ["no shared", "experts 8", "grain 2", "grain 8"])
def test_grains_have_equal_totals_except_for_their_routers(name):
    routers = ARMS[name].model.n_routed_experts * (128 + 1) * 3
    assert SIZES[name]["total"] - routers == SIZES["moe"]["total"] - 31 * (128 + 1) * 3


def test_expert_counts_go_from_one_to_thirty_two():
    counts = [1, 2, 4, 8, 16, 32]
    assert [ARMS[f"experts {n}"].model.n_routed_experts for n in counts] == counts


def test_a_single_expert_per_token_keeps_its_gradient():
    for name in MIXTURES:
        config = ARMS[name].model
        assert config.top_k > 1 or not config.norm_topk_prob


def test_arms_differ_from_their_reference_only_where_their_name_says():
    plan = ARMS["dense"].training
    for name, arm in ARMS.items():
        differing = {
            field.name
            for field in dataclasses.fields(TrainConfig)
            if getattr(arm.training, field.name) != getattr(plan, field.name)
        }
        if "steps" in name:
            assert differing == {"steps", "eval_every"}
        elif "rate" in name:
            assert differing == {"learning_rate", "adamw_learning_rate"}
        else:
            assert not differing


def test_balance_arms_share_one_model_and_differ_only_in_balance():
    arms = balance_arms()
    assert {arm.model for arm in arms.values()} == {presets.lab()}
    allowed = {"bias_update_rate", "bias_update", "balance_loss", "balance_loss_weight"}
    none = arms["none"].training
    assert none.bias_update_rate == none.balance_loss_weight == none.z_loss_weight == 0
    for arm in arms.values():
        for field in dataclasses.fields(TrainConfig):
            if field.name not in allowed | {"z_loss_weight"}:
                assert getattr(arm.training, field.name) == getattr(none, field.name)


def test_all_but_two_arms_train_on_the_stories():
    six = [name for name, arm in ARMS.items() if not arm.domains]
    assert six == ["dense six domains", "moe six domains"]
    assert {arm.domains for arm in ARMS.values()} == {(), ("stories_en", "stories_de")}


def test_a_seed_changes_nothing_but_the_seed():
    arm = ARMS["moe"]
    assert dataclasses.replace(arm.at_seed(7), seed=0) == arm.training
