"""FLOP counts match torch's counter, and the published figure for the paper's model."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import mini_moe.profiling.counting.formulas  # noqa: F401 (formulas that torch's counter lacks)
from mini_moe import Transformer, presets
from mini_moe.ops import use
from mini_moe.training import speed
from mini_moe.training.losses import training_losses
from tests.helpers import random_tokens, small_model
from tests.training.small_run import small_train_config


def counted_by_torch(model, seq: int) -> int:
    depths = model.config.n_mtp_layers
    tokens = random_tokens(model.config, batch=1, seq=seq + 1 + depths)
    with use("pytorch"), FlopCounterMode(display=False) as counter:
        training_losses(model, tokens, small_train_config(), []).total.backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("changes", [{}, {"n_mtp_layers": 1}, {"tie_embeddings": True}])
def test_flops_of_a_dense_model_are_those_torch_counts(changes):
    model = small_model(n_dense_layers=3, d_model=64, d_ff=160, vocab_size=211, **changes)
    config, seq = model.config, 32
    layers = config.n_layers + config.n_mtp_layers
    widths = config.n_heads * (config.qk_head_dim + config.v_head_dim)
    above_diagonal = 3 * layers * 2 * widths * (seq - 1) / 2  # multiplied, then masked
    expected = counted_by_torch(model, seq) / seq - above_diagonal
    # norms' weights, which torch doesn't count, are the difference
    assert speed.flops_per_token(model, seq) == pytest.approx(expected, rel=0.01)


def test_only_chosen_experts_cost():
    few, many = (small_model(n_routed_experts=n, n_mtp_layers=1) for n in (8, 64))
    bias_and_router = 3 * 2 * 56 * (2 * 33 + 32)  # three routers, 56 rows more; MTP's has no bias
    difference = speed.flops_per_token(many, 16) - speed.flops_per_token(few, 16)
    assert difference == bias_and_router
    top4 = small_model(n_routed_experts=8, n_mtp_layers=1, top_k=4)
    expert = 3 * 32 * 16
    more = speed.flops_per_token(top4, 16) - speed.flops_per_token(few, 16)
    assert more == 3 * 2 * 3 * 2 * expert


def test_deepseek_v3_trains_with_250_gigaflops_a_token():
    with torch.device("meta"):
        model = Transformer(presets.deepseek_v3())
    assert speed.flops_per_token(model, 4096) == pytest.approx(250.46e9, rel=1e-4)


def test_attention_costs_grow_with_the_sequence():
    model = small_model()
    widths = 2 * (12 + 8)
    difference = speed.flops_per_token(model, 33) - speed.flops_per_token(model, 1)
    assert difference == pytest.approx(3 * 3 * 2 * widths * 16)


def test_peak_is_a_plausible_rate_and_draws_no_random_numbers():
    before = torch.get_rng_state()
    peak = speed.matmul_peak(torch.float32, size=64, repeats=3)
    assert 1e6 < peak < 1e16
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("factor", "faster"), [(1.4, False), (1.6, True)])
def test_bf16_must_be_half_as_fast_again(monkeypatch, factor, faster):
    peaks = {torch.bfloat16: factor * 1e9, torch.float32: 1e9}
    monkeypatch.setattr(speed, "matmul_peak", lambda dtype, device: peaks[dtype])
    assert speed.bf16_is_faster() is faster


def test_keeping_memory_changes_no_numbers():
    before = torch.arange(10.0) @ torch.arange(10.0)
    speed.keep_freed_memory()
    speed.keep_freed_memory()
    assert torch.arange(10.0) @ torch.arange(10.0) == before
