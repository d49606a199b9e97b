"""Muon's steps are orthogonal and equal torch's; each parameter has its optimizer and rate."""

import pytest
import torch

from mini_moe.training.optimizer import (
    NEWTON_SCHULZ,
    Muon,
    build_optimizers,
    learning_rate_factor,
    orthogonalise,
)
from tests.helpers import relative_error, small_model
from tests.training.small_run import small_train_config


def singular_values(matrices):
    return torch.linalg.svdvals(matrices.double())


def muon_for(parameters, bf16=False, **options):
    settings = {"lr": 0.1, "momentum": 0.95, "weight_decay": 0.0, "bf16": bf16}
    return Muon(parameters, **settings | options)


@pytest.mark.parametrize("shape", [(16, 48), (48, 16), (8, 64), (5, 6), (1, 7)])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_singular_values_become_about_one(shape, scale):
    values = singular_values(orthogonalise(scale * torch.randn(20, *shape)))
    assert 0.6 < values.min() and values.max() < 1.3


@pytest.mark.parametrize("shape", [(12, 30), (30, 12), (16, 16)])
def test_a_rank_deficient_matrix_keeps_its_rank(shape):
    matrix = torch.randn(10, shape[0], 4) @ torch.randn(10, 4, shape[1])
    values = singular_values(orthogonalise(matrix))
    assert 0.6 < values[:, :4].min() and values.max() < 1.3
    assert values[:, 4:].max() < 0.01


def test_zero_stays_zero():
    assert torch.equal(orthogonalise(torch.zeros(2, 3, 5)), torch.zeros(2, 3, 5))


def test_singular_vectors_stay():
    matrix = torch.randn(1, 10, 24)
    left, _, right = torch.linalg.svd(matrix[0], full_matrices=False)
    turned = left.mT @ orthogonalise(matrix)[0] @ right.mT
    assert (turned - turned.diag().diag()).abs().max() < 1e-4


@pytest.mark.parametrize("shape", [(6, 20), (20, 6)])
def test_a_stack_is_its_matrices_one_by_one(shape):
    stack = torch.randn(7, *shape)
    alone = torch.cat([orthogonalise(matrix[None]) for matrix in stack])
    assert relative_error(orthogonalise(stack), alone) < 1e-5


def test_a_step_on_stacked_experts_is_the_step_on_each_alone():
    stacked = torch.nn.Parameter(torch.randn(4, 2, 6, 10))
    alone = [torch.nn.Parameter(m.clone()) for m in stacked.detach().flatten(0, 1)]
    together = muon_for([stacked, torch.nn.Parameter(torch.randn(6, 10))])  # another of this shape
    each = [muon_for([parameter]) for parameter in alone]
    for _ in range(3):
        stacked.grad = torch.randn(4, 2, 6, 10)
        together.param_groups[0]["params"][1].grad = torch.randn(6, 10)
        for parameter, gradient in zip(alone, stacked.grad.flatten(0, 1), strict=True):
            parameter.grad = gradient.clone()
        for optimizer in (together, *each):
            optimizer.step()
    assert relative_error(stacked.flatten(0, 1), torch.stack(list(alone))) < 1e-5


@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (16, 16)])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_steps_equal_those_of_torch(shape, weight_decay):
    start = torch.randn(shape)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    muon = muon_for([ours], bf16=True, weight_decay=weight_decay)
    peer = torch.optim.Muon(
        [theirs],
        lr=0.1,
        momentum=0.95,
        weight_decay=weight_decay,
        ns_coefficients=NEWTON_SCHULZ,
        adjust_lr_fn="original",
    )
    for _ in range(4):
        ours.grad = torch.randn(shape)
        theirs.grad = ours.grad.clone()
        muon.step()
        peer.step()
    assert relative_error(ours.detach() - start, theirs.detach() - start) < 0.03  # torch's bf16


def test_a_step_is_as_long_as_the_rate_says():
    tall = torch.nn.Parameter(torch.zeros(36, 4))
    tall.grad = torch.randn(36, 4)
    muon_for([tall], lr=0.01).step()
    values = singular_values(tall.detach()) / (0.01 * 3)  # √(36 / 4)
    assert 0.6 < values.min() and values.max() < 1.3


def test_parameters_without_gradient_stay():
    still, moved = (torch.nn.Parameter(torch.ones(3, 4)) for _ in range(2))
    moved.grad = torch.randn(3, 4)
    muon_for([still, moved], weight_decay=0.5).step()
    assert torch.equal(still, torch.ones(3, 4)) and not torch.equal(moved, torch.ones(3, 4))


@pytest.mark.parametrize("tied", [False, True])
def test_muon_takes_the_matrices_inside_blocks_and_adamw_the_rest(tied):
    model = small_model(n_mtp_layers=1, q_lora_rank=8, tie_embeddings=tied)
    names = {id(p): name for name, p in model.named_parameters()}
    muon, adamw = build_optimizers(model, small_train_config(), bf16=False)
    given = [[names[id(p)] for g in o.param_groups for p in g["params"]] for o in (muon, adamw)]
    assert sorted(given[0] + given[1]) == sorted(names.values())
    rest = ("norm", "embed_tokens", "lm_head", "gate.weight")
    assert all(any(part in name for part in rest) for name in given[1])
    assert not any(any(part in name for part in rest) for name in given[0])
    assert any("experts.gate_up_proj" in name for name in given[0]) and type(muon) is Muon
    assert (muon.param_groups[0]["lr"], adamw.param_groups[0]["lr"]) == (0.02, 0.006)


def test_adamw_alone_takes_everything_with_both_rates():
    model = small_model()
    config = small_train_config(optimizer="adamw", learning_rate=0.5, weight_decay=0.25)
    (adamw,) = build_optimizers(model, config, bf16=False)
    taken = [p for group in adamw.param_groups for p in group["params"]]
    assert {id(p) for p in taken} == {id(p) for p in model.parameters()}
    assert [group["lr"] for group in adamw.param_groups] == [0.5, 0.006]
    assert all(group["weight_decay"] == 0.25 for group in adamw.param_groups)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"warmup_steps": 0, "decay_fraction": 0.0}, [1, 1, 1, 1]),
        ({"warmup_steps": 0, "decay_fraction": 1.0}, [1, 0.75, 0.5, 0.25]),
        ({"warmup_steps": 3, "decay_fraction": 0.0}, [0.25, 0.5, 0.75, 1]),
        ({"warmup_steps": 1, "decay_fraction": 0.5}, [0.5, 1, 1, 0.5]),
        ({"warmup_steps": 9, "decay_fraction": 1.0}, [0.1, 0.2, 0.3, 0.25]),
    ],
)
def test_rate_rises_stays_and_falls(changes, expected):
    config = small_train_config(steps=4, **changes)
    assert [learning_rate_factor(step, config) for step in range(4)] == pytest.approx(expected)


@pytest.mark.parametrize("warmup_steps", [0, 5])
@pytest.mark.parametrize("decay_fraction", [0.0, 0.6, 1.0])
def test_a_single_step_moves(warmup_steps, decay_fraction):
    config = small_train_config(steps=1, warmup_steps=warmup_steps, decay_fraction=decay_fraction)
    assert 0 < learning_rate_factor(0, config) <= 1
