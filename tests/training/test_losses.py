"""Each loss equals a token-by-token computation, and they add up with their weights."""

import dataclasses

import pytest
import torch
from torch import Tensor

from mini_moe.training.losses import sequence_balance_loss, training_losses
from tests.helpers import random_tokens, small_model
from tests.training.small_run import small_train_config


def minus_log_probability(logits: Tensor, target: int) -> float:
    exponentials = [float(torch.exp(value)) for value in logits.double()]
    return -float(torch.log(torch.tensor(exponentials[target] / sum(exponentials))))


def losses_of(model, tokens, **changes):
    return training_losses(model, tokens, small_train_config(**changes), [])


@torch.no_grad()
def test_next_token_loss_is_the_mean_over_single_tokens():
    model = small_model()
    tokens = random_tokens(model.config, batch=2, seq=7)
    each = [
        minus_log_probability(model(row[None, : i + 1])[0, -1], int(row[i + 1]))
        for row in tokens
        for i in range(6)
    ]
    loss = losses_of(model, tokens).next_token
    assert float(loss) == pytest.approx(sum(each) / len(each), rel=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("depths", [1, 2])
def test_mtp_module_at_position_i_predicts_two_or_more_ahead(depths):
    model = small_model(n_mtp_layers=depths)
    tokens = random_tokens(model.config, batch=2, seq=6 + depths)
    seq = tokens.shape[1] - 1 - depths
    per_depth = []
    for depth in range(depths):
        each = []
        for row in tokens:
            for i in range(seq):
                hidden = model.hidden(row[None, : i + 1])
                for d in range(depth + 1):
                    hidden = model.mtp_hidden(hidden, row[None, d + 1 : d + i + 2], d)
                logits = model.lm_head(hidden)[0, -1]
                each.append(minus_log_probability(logits, int(row[i + depth + 2])))
        per_depth.append(sum(each) / len(each))
    losses = losses_of(model, tokens)
    assert float(losses.mtp) == pytest.approx(sum(per_depth) / depths, rel=1e-5)


@torch.no_grad()
def test_main_loss_of_a_model_with_mtp_reads_the_same_positions():
    model = small_model(n_mtp_layers=1)
    tokens = random_tokens(model.config, batch=3, seq=9)
    with_mtp = losses_of(model, tokens).next_token
    model.config = dataclasses.replace(model.config, n_mtp_layers=0)
    assert torch.equal(with_mtp, losses_of(model, tokens[:, :-1]).next_token)


@torch.no_grad()
def test_total_adds_the_parts_with_lambda_and_alpha():
    model = small_model(n_mtp_layers=1)
    tokens = random_tokens(model.config)
    routings = []
    config = small_train_config(mtp_loss_weight=0.25, balance_loss_weight=0.5)
    losses = training_losses(model, tokens, config, routings)
    assert len(routings) == 3  # two MoE layers and the MTP module's
    expected = losses.next_token + 0.25 * losses.mtp + 0.5 * 3 * losses.balance
    torch.testing.assert_close(losses.total, expected)
    assert losses.mtp > 0 and losses.balance > 0.9


@torch.no_grad()
def test_a_dense_model_without_mtp_has_one_loss():
    model = small_model(n_dense_layers=3)
    losses = losses_of(model, random_tokens(model.config), balance_loss_weight=1.0)
    assert torch.equal(losses.total, losses.next_token)
    assert (losses.mtp, losses.balance) == (0, 1)


def balance_by_hand(scores: Tensor, top_k: int, n_sequences: int) -> float:
    """Compute equations 17–20 with three loops."""
    tokens, experts = scores.shape
    seq = tokens // n_sequences
    total = 0.0
    for sequence in range(n_sequences):
        rows = scores[sequence * seq : (sequence + 1) * seq].tolist()
        for expert in range(experts):
            frequency = probability = 0.0
            for row in rows:
                best = sorted(range(experts), key=lambda e, row=row: (-row[e], e))[:top_k]
                frequency += experts / (top_k * seq) * (expert in best)
                probability += row[expert] / sum(row) / seq
            total += frequency * probability
    return total / n_sequences


@pytest.mark.parametrize("top_k", [1, 3, 8])
def test_balance_loss_equals_three_loops(top_k):
    scores = torch.rand(24, 8, generator=torch.Generator().manual_seed(top_k)) + 0.01
    by_hand = balance_by_hand(scores, top_k, 4)
    assert float(sequence_balance_loss(scores, top_k, 4)) == pytest.approx(by_hand, rel=1e-5)


def test_balance_loss_is_one_when_every_sequence_is_even():
    turns = torch.eye(4).repeat(6, 1) + 1e-6  # each expert is best for every fourth token
    assert float(sequence_balance_loss(turns, 1, 3)) == pytest.approx(1.0, abs=1e-6)
    assert float(sequence_balance_loss(torch.ones(8, 4), 4, 2)) == pytest.approx(1.0)


def test_balance_loss_is_the_number_of_experts_when_one_takes_all():
    one = torch.tensor([1.0, 1e-9, 1e-9, 1e-9]).repeat(10, 1)
    assert float(sequence_balance_loss(one, 1, 2)) == pytest.approx(4.0, rel=1e-6)


def test_balance_is_per_sequence_not_per_batch():
    halves = (
        torch.eye(2).repeat_interleave(5, dim=0) + 1e-9
    )  # balanced over both, unbalanced in each
    assert float(sequence_balance_loss(halves, 1, 2)) == pytest.approx(2.0, rel=1e-6)
    assert float(sequence_balance_loss(halves, 1, 1)) == pytest.approx(1.0, rel=1e-6)


def test_balance_loss_pulls_router_and_lowers_itself():
    model = small_model()
    tokens = random_tokens(model.config, batch=4)
    config = small_train_config(balance_loss_weight=1.0)
    before = training_losses(model, tokens, config, [])
    routers = [layer.mlp.gate.weight for layer in model.layers if layer.is_moe]
    both = torch.autograd.grad(before.total, routers)
    alone = torch.autograd.grad(losses_of(model, tokens, balance_loss_weight=0.0).total, routers)
    gradients = [with_balance - without for with_balance, without in zip(both, alone, strict=True)]
    assert all(gradient.abs().max() > 1e-3 for gradient in gradients)
    with torch.no_grad():
        for weight, gradient in zip(routers, gradients, strict=True):
            weight -= 0.02 * gradient / gradient.norm()
    assert training_losses(model, tokens, config, []).balance < before.balance


def test_every_parameter_gets_a_gradient():
    model = small_model(n_mtp_layers=1)
    losses_of(model, random_tokens(model.config)).total.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_losses_that_are_logged_carry_no_graph():
    model = small_model(n_mtp_layers=1)
    losses = losses_of(model, random_tokens(model.config))
    logged = (losses.next_token, losses.mtp, losses.balance)
    assert losses.total.requires_grad and not any(loss.requires_grad for loss in logged)
