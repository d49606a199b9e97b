"""All ways of balancing: equal where they must be, gradients only where they belong."""

import dataclasses
import math

import pytest
import torch

from mini_moe import TrainConfig, trace_routing
from mini_moe.model.router import Router, route
from mini_moe.training.balance import update_expert_bias, update_expert_bias_proportionally
from mini_moe.training.evaluation import validation_losses
from mini_moe.training.loop import fresh_state, train_step
from mini_moe.training.losses import (
    balance_loss,
    sequence_balance_loss,
    switch_loss,
    training_losses,
    z_loss,
)
from tests.helpers import random_tokens, small_config, small_model, without_shape_hook
from tests.training.small_run import small_model_config, small_train, small_train_config

METHODS = {
    "none": {"bias_update_rate": 0.0, "balance_loss_weight": 0.0},
    "switch": {"bias_update_rate": 0.0, "balance_loss": "switch", "balance_loss_weight": 0.01},
    "sequence": {"bias_update_rate": 0.0, "balance_loss_weight": 0.01},
    "batch": {"bias_update_rate": 0.0, "balance_loss": "batch", "balance_loss_weight": 0.01},
    "z": {"bias_update_rate": 0.0, "balance_loss_weight": 0.0, "z_loss_weight": 0.001},
    "sign": {"bias_update_rate": 0.01, "balance_loss_weight": 0.0},
    "proportional": {
        "bias_update_rate": 0.01, "bias_update": "proportional", "balance_loss_weight": 0.0,
    },
}  # fmt: skip


def some_routing(bias=None, tokens=24, **changes):
    logits = torch.randn(tokens, 8, generator=torch.Generator().manual_seed(1)).requires_grad_()
    return logits, route(logits, bias, small_config(**changes))


def loss_of(routing, scope, n_sequences=4):
    return balance_loss(routing, TrainConfig(balance_loss=scope), n_sequences)


def routers(model):
    return [module for module in model.modules() if isinstance(module, Router)]


def test_without_a_bias_switch_and_batch_wise_are_the_same_loss_and_gradient():
    gradients = []
    for scope in ("switch", "batch"):
        logits, routing = some_routing()
        loss = loss_of(routing, scope)
        (gradient,) = torch.autograd.grad(loss, logits)
        gradients.append(gradient)
    torch.testing.assert_close(*gradients)


def test_with_a_bias_switch_counts_what_was_chosen_and_the_others_what_scores_say():
    bias = torch.tensor([2.0, 2.0] + [0.0] * 6)  # every token chooses experts 0 and 1
    (_, plain), (_, biased) = some_routing(), some_routing(bias)
    assert loss_of(biased, "batch") == loss_of(plain, "batch")
    share = (biased.scores / biased.scores.sum(-1, keepdim=True)).mean(0)
    torch.testing.assert_close(loss_of(biased, "switch"), 8 * share[:2].sum() / 2)


def test_one_sequence_is_a_batch():
    _, routing = some_routing()
    assert loss_of(routing, "sequence", 1) == loss_of(routing, "batch", 1)
    assert loss_of(routing, "sequence", 4) != loss_of(routing, "batch", 4)


def test_switch_loss_by_hand():
    scores = torch.tensor([[0.6, 0.2, 0.2], [0.5, 0.25, 0.25]])
    chosen = torch.tensor([[0, 1], [0, 2]])
    # f = 1/2, 1/4, 1/4 and P = 0.55, 0.225, 0.225
    assert float(switch_loss(scores, chosen)) == pytest.approx(3 * (0.275 + 0.05625 + 0.05625))


@pytest.mark.parametrize("top_k", [1, 2, 4])
def test_switch_loss_is_one_when_even_and_experts_over_top_k_at_collapse(top_k):
    even = torch.arange(8).repeat(top_k).reshape(-1, top_k)
    assert float(switch_loss(torch.ones(len(even), 8), even)) == pytest.approx(1)
    one_sided = torch.full((5, 8), 1e-9)
    one_sided[:, :top_k] = 1.0
    ids = torch.arange(top_k).expand(5, top_k)
    assert float(switch_loss(one_sided, ids)) == pytest.approx(8 / top_k, rel=1e-4)


def test_z_loss_by_hand_and_its_gradient():
    logits = torch.tensor([[0.0, 0.0], [1.0, 3.0]], requires_grad=True)
    sums = [math.log(2), math.log(math.e + math.e**3)]
    loss = z_loss(logits)
    assert loss.item() == pytest.approx((sums[0] ** 2 + sums[1] ** 2) / 2, rel=1e-6)
    (gradient,) = torch.autograd.grad(loss, logits)
    expected = torch.tensor(sums)[:, None] * logits.detach().softmax(-1)  # 2·lse·softmax / 2 rows
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("scope", ["sequence", "batch", "switch"])
def test_a_balance_loss_lowers_the_scores_of_the_busy_and_spares_the_bias(scope):
    bias = torch.zeros(8, requires_grad=True)
    logits, routing = some_routing(bias)
    gradient, none = torch.autograd.grad(
        loss_of(routing, scope, 1), (logits, bias), allow_unused=True
    )
    counts = torch.bincount(routing.expert_ids.flatten(), minlength=8)
    busiest, idlest = int(counts.argmax()), int(counts.argmin())
    assert none is None and gradient[:, busiest].sum() > 0 > gradient[:, idlest].sum()


@pytest.mark.parametrize("scope", ["sequence", "batch", "switch"])
def test_every_expert_gets_a_gradient_even_if_no_token_chose_it(scope):
    logits, routing = some_routing(torch.tensor([5.0, 5.0] + [0.0] * 6))
    (gradient,) = torch.autograd.grad(loss_of(routing, scope), logits)
    assert (gradient.abs().sum(dim=0) > 0).all()


def test_weights_of_zero_leave_only_the_language_loss():
    model, tokens = small_model(), random_tokens(small_config())
    for method in ("none", "sign", "proportional"):
        losses = training_losses(model, tokens, small_train_config(**METHODS[method]), [])
        assert float(losses.total) == float(losses.next_token)


def test_z_loss_enters_the_total_once_per_layer():
    model, tokens = small_model(), random_tokens(small_config())
    losses = training_losses(model, tokens, small_train_config(**METHODS["z"]), [])
    torch.testing.assert_close(losses.total, losses.next_token + 0.001 * 2 * losses.z)


def test_proportional_update_by_hand():
    bias = torch.tensor([0.5, 0.0, 0.0, 0.1])
    update_expert_bias_proportionally(bias, torch.tensor([9, 3, 5, 3]), rate=0.1)  # mean 5
    assert bias.tolist() == pytest.approx([0.42, 0.04, 0.0, 0.14])


def test_both_updates_move_in_the_same_direction_and_both_rest_when_even():
    counts = torch.tensor([40, 1, 12, 7, 0, 12])
    by_sign, in_proportion = torch.zeros(6), torch.zeros(6)
    update_expert_bias(by_sign, counts, rate=0.1)
    update_expert_bias_proportionally(in_proportion, counts, rate=0.1)
    assert torch.equal(by_sign.sign(), in_proportion.sign())
    assert float(in_proportion.sum()) == pytest.approx(0, abs=1e-6)
    for update in (update_expert_bias, update_expert_bias_proportionally):
        still = torch.full((4,), 0.25)
        update(still, torch.full((4,), 6), rate=0.5)
        assert still.tolist() == [0.25] * 4


@pytest.mark.parametrize("method", ["none", "switch", "sequence", "batch", "z"])
def test_only_the_loss_free_methods_move_the_bias(corpus, method):
    run = small_train(corpus, **METHODS[method])
    assert all(not router.e_score_correction_bias.any() for router in routers(run.model))


@pytest.mark.parametrize("method", ["sign", "proportional"])
def test_the_update_comes_after_the_batch_that_it_was_counted_in(corpus, method):
    """The load logged for step n is what the bias after step n − 1 gives on batch n."""
    config = small_train_config(bias_freeze_fraction=0.0, **METHODS[method] | {
        "bias_update_rate": 0.2})  # fmt: skip
    state = fresh_state(small_model_config(corpus), config, corpus)
    bias = torch.zeros(4)
    for _ in range(3):
        (router,) = routers(state.model)
        assert torch.equal(router.e_score_correction_bias, bias)
        record = train_step(state, config, corpus)
        counts = torch.tensor(record["load"][0]) * 4 * 16 * 2
        update = update_expert_bias if method == "sign" else update_expert_bias_proportionally
        update(bias, counts.round().long(), 0.2)


@pytest.mark.parametrize("method", ["sign", "proportional"])
def test_the_bias_does_not_change_in_evaluation(corpus, method):
    model = small_train(corpus, **METHODS[method]).model
    before = [router.e_score_correction_bias.clone() for router in routers(model)]
    assert all(bias.any() for bias in before)
    validation_losses(model, corpus, 16)
    trace_routing(model, "the cat sat")
    model.train()
    model(torch.zeros(1, 8, dtype=torch.long))
    for router, bias in zip(routers(model), before, strict=True):
        assert torch.equal(router.e_score_correction_bias, bias)


@pytest.mark.parametrize("method", ["switch", "z", "proportional"])
def test_a_run_with_it_continues_from_a_checkpoint_with_the_same_bits(corpus, tmp_path, method):
    options = METHODS[method] | {"checkpoint_every": 2}
    seen = []
    interrupted = {"on_step": seen.append, "should_stop": lambda: len(seen) == 3}
    small_train(corpus, folder=tmp_path, **options, **interrupted)
    continued = small_train(corpus, folder=tmp_path, **options)
    whole = small_train(corpus, **options)
    pairs = zip(continued.model.state_dict().values(), whole.model.state_dict().values(),
                strict=True)  # fmt: skip
    assert all(torch.equal(one, other) for one, other in pairs)


def test_another_method_does_not_continue_the_run(corpus, tmp_path):
    small_train(corpus, folder=tmp_path, **METHODS["switch"])
    with pytest.raises(ValueError, match="balance_loss"):
        small_train(corpus, folder=tmp_path, **METHODS["batch"])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("model_changes", "changes"),
    [
        ({"n_routed_experts": 1, "top_k": 1}, {}),
        ({"top_k": 4}, {}),
        ({}, {"batch_size": 1, "seq_len": 1}),
    ],
    ids=["one expert", "all experts chosen", "one token"],
)
def test_the_smallest_cases_train_and_stay_finite(corpus, method, model_changes, changes):
    run = small_train(corpus, model_changes, **METHODS[method], **changes)
    last = run.log[-1]
    assert math.isfinite(last["loss"]) and all(map(math.isfinite, last["max_violation"]))
    if model_changes:  # no choice: the load is even and the bias stays put
        assert last["max_violation"] == [0.0]
        assert all(not router.e_score_correction_bias.any() for router in routers(run.model))
        if method in ("switch", "sequence", "batch"):
            assert last["balance_loss"] == pytest.approx(1, abs=1e-5)


def test_equal_tokens_all_go_the_same_way_and_the_lower_expert_wins_the_tie():
    logits = torch.zeros(5, 8)
    routing = route(logits, None, small_config())
    assert routing.expert_ids.tolist() == [[0, 1]] * 5
    assert float(sequence_balance_loss(routing.scores, 2, 1)) == pytest.approx(1)


BAD = [
    ("bias_update_rate", -0.1), ("bias_update_rate", math.nan), ("balance_loss_weight", -1.0),
    ("balance_loss_weight", math.inf), ("z_loss_weight", -1e-3), ("z_loss_weight", math.nan),
    ("balance_loss", "gshard"), ("bias_update", "cosine"),
]  # fmt: skip


@pytest.mark.parametrize(("field", "value"), BAD)
def test_a_bad_setting_is_named(field, value):
    with without_shape_hook(), pytest.raises(ValueError, match=field):
        dataclasses.replace(TrainConfig(), **{field: value})
