"""Operation and byte counts match counts by hand; routing is as described."""

import pytest
import torch

from tests.benchmarks.gpu.cases import (
    DEEPSEEK_V3,
    SONIC,
    TEACHING,
    Product,
    Shape,
    choose_experts,
    combine_bytes,
    gather_bytes,
    layer_bytes,
    layer_flops,
    product_flops,
    weight_bytes,
)


def test_flops_of_a_layer_count_three_products_and_twice_that_backward():
    shape = Shape(2, 3, 5, 7, 1)
    assert layer_flops(shape) == 2 * 3 * (2 * 3 * 5)  # 2 FLOPs, 3 products, 2 rows of 3 by 5
    assert layer_flops(shape, backward=True) == 3 * layer_flops(shape)


@pytest.mark.parametrize(
    ("shape", "tera"), [(TEACHING, 0.052), (DEEPSEEK_V3, 5.77), (SONIC[5], 6.60), (SONIC[0], 0.464)]
)
def test_flops_of_known_layers(shape, tera):
    assert layer_flops(shape) / 1e12 == pytest.approx(tera, rel=0.01)


def test_flops_of_a_grouped_product_are_those_of_the_dense_one():
    assert product_flops(Product(4, 8, 16, 32)) == 2 * (4 * 8) * 16 * 32


def test_weights_count_only_for_experts_that_somebody_chose():
    ids = torch.tensor([[0, 2], [2, 5]])
    assert weight_bytes(Shape(2, 10, 20, 8, 2), ids) == 3 * (3 * 10 * 20) * 2


def test_a_token_of_deepseek_v3_reads_eight_experts():
    ids, _ = choose_experts(1, 256, 8, "uniform")
    shape = DEEPSEEK_V3._replace(tokens=1)
    weights = 8 * 3 * 7168 * 2048 * 2  # 0.147 ms at 4.8 TB/s
    assert weight_bytes(shape, ids) == weights
    assert weights < layer_bytes(shape, ids) < 1.001 * weights


def test_gathering_reads_a_token_for_each_of_its_rows():
    assert gather_bytes(rows=6, width=10) == (6 * 10 + 6 * 10) * 2


def test_mixing_moves_every_token_and_every_row_once():
    assert combine_bytes(tokens=3, rows=6, width=10) == (3 * 10 + 6 * 10) * 2


@pytest.mark.parametrize("routing", ["uniform", "zipf"])
def test_choices_of_a_token_are_different_experts_and_gates_add_up(routing):
    ids, gates = choose_experts(500, 16, 6, routing)
    assert all(len(set(row)) == 6 for row in ids.tolist())
    assert 0 <= ids.min() and ids.max() < 16
    torch.testing.assert_close(gates.sum(dim=-1), torch.ones(500))


def test_zipf_follows_the_law_and_leaves_the_last_eighth_without_rows():
    ids, _ = choose_experts(40_000, 16, 1, "zipf")
    counts = ids.flatten().bincount(minlength=16).double()
    assert counts[14:].tolist() == [0, 0]
    expected = 1 / torch.arange(1, 15).double()
    share, expected = counts[:14] / counts.sum(), expected / expected.sum()
    assert (share - expected).abs().max() < 0.01


def test_zipf_keeps_enough_experts_for_a_token():
    ids, _ = choose_experts(10, 8, 8, "zipf")
    assert ids.sort(dim=-1).values.tolist() == [list(range(8))] * 10


def test_uniform_routing_is_even():
    counts = choose_experts(40_000, 16, 2, "uniform")[0].flatten().bincount()
    assert counts.min() > 0.95 * 5000 and counts.max() < 1.05 * 5000
