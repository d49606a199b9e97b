"""torch's counter sees our operations exactly once on every path, eager or compiled."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from mini_moe.ops import compiled, moe_experts, use
from mini_moe.profiling.counting import formulas

ROWS, D, WIDTH, EXPERTS, TOKENS = 10, 6, 3, 4, 5


def layer_inputs():
    ids = torch.tensor([[0, 1], [1, 2], [3, 0], [0, 2], [1, 3]])
    x, gates = torch.randn(TOKENS, D), torch.rand(TOKENS, 2)
    weights = torch.randn(EXPERTS, 2, WIDTH, D), torch.randn(EXPERTS, D, WIDTH)
    return [t.requires_grad_() if t.is_floating_point() else t for t in (x, ids, gates, *weights)]


def counted(run) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def test_experts_count_three_products_per_chosen_row():
    one_way = 2 * ROWS * 3 * D * WIDTH
    assert counted(lambda: moe_experts(*layer_inputs())) == one_way
    assert counted(lambda: moe_experts(*layer_inputs()).sum().backward()) == 3 * one_way


def test_the_path_taken_does_not_change_the_count():
    seen = [counted(lambda: moe_experts(*layer_inputs()).sum().backward())]
    with use("pytorch"):
        seen.append(counted(lambda: moe_experts(*layer_inputs()).sum().backward()))
    assert len(set(seen)) == 1


@pytest.mark.skipif(bool(compiled.WHY_NOT), reason="compiled kernels are not loaded")
def test_the_layers_stages_cost_what_the_layer_costs():
    x, ids, gates, gate_up, down = layer_inputs()
    ops = torch.ops.mini_moe
    token, place, _, offsets = ops.sort_rows(ids, EXPERTS)

    def stage_by_stage():
        hidden, _ = ops.grouped_swiglu(x, token, offsets, gate_up, True)
        rows = ops.grouped_gemm(hidden, offsets, down, True)
        ops.combine(rows, place, gates)
        ops.grouped_wgrad(rows, hidden, offsets)

    assert counted(stage_by_stage) == 2 * ROWS * 3 * D * WIDTH + 2 * ROWS * D * WIDTH


def test_registering_again_changes_nothing():
    before = dict(flop_registry)
    assert formulas.register() == []
    assert flop_registry == before


def test_long_attention_on_the_cpu_is_counted():
    query, key, value = torch.randn(3, 1, 2, 40, 8).unbind()
    attend = torch.nn.functional.scaled_dot_product_attention
    assert counted(lambda: attend(query, key, value, is_causal=True)) == 2 * 2 * 40 * 40 * 16
