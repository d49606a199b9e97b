"""Counts equal torch's, the modules' and those of the published model."""

import contextlib
import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from mini_moe import TrainConfig, Transformer, presets
from mini_moe.inference.cache import KeyValueCache
from mini_moe.ops import use
from mini_moe.profiling import count, muon_flops
from mini_moe.training.losses import training_losses
from mini_moe.training.optimizer import build_optimizers
from tests.config_strategy import valid_configs
from tests.helpers import random_tokens, small_config, small_model, without_shape_hook

V3 = presets.deepseek_v3()


def counted(run) -> int:
    """Return the FLOPs that torch counts while `run` runs."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def training_pass(model, batch: int, seq: int, **settings):
    tokens = random_tokens(model.config, batch, seq + 1 + model.config.n_mtp_layers)
    training_losses(model, tokens, TrainConfig(**settings), []).total.backward()


@settings(deadline=None, max_examples=60)
@given(valid_configs(), st.integers(1, 3), st.integers(1, 12))
def test_flops_match_torchs_forward_and_backward(config, batch, seq):
    config = dataclasses.replace(config, max_seq_len=32)
    model = Transformer(config)
    found = count(model, batch=batch, seq=seq, pairs="executed")
    assert found.main.flops_forward == counted(lambda: model(random_tokens(config, batch, seq)))
    assert found.total.flops_training == counted(lambda: training_pass(model, batch, seq))


@settings(deadline=None, max_examples=30)
@given(valid_configs(), st.integers(1, 3), st.integers(1, 6), st.integers(1, 9))
def test_flops_with_a_cache_match_torchs(config, batch, seq, context):
    config = dataclasses.replace(config, max_seq_len=32)
    model, cache = Transformer(config), KeyValueCache()
    with torch.no_grad():
        model(random_tokens(config, batch, context), cache=cache)
        seen = counted(lambda: model(random_tokens(config, batch, seq), cache=cache))
    found = count(config, batch=batch, seq=seq, context=context, pairs="executed")
    assert found.main.flops_forward == seen
    assert found.total.flops_training == 0


@pytest.mark.parametrize("kernels", ["compiled", "PyTorch"])
@pytest.mark.parametrize("seq", [128, 129, 300, 1024, 1100])
def test_long_sequences_are_counted_as_they_are_computed(seq, kernels):
    model = small_model(max_seq_len=2048, n_mtp_layers=1, v_head_dim=5)
    with use("pytorch") if kernels == "PyTorch" else contextlib.nullcontext():
        found = count(model, seq=seq, pairs="executed")
        assert found.total.flops_training == counted(lambda: training_pass(model, 1, seq))


def test_every_modules_flops_match_torchs():
    model = small_model(q_lora_rank=6)
    tokens = random_tokens(model.config, 2, 12)
    with FlopCounterMode(display=False) as counter:
        model(tokens)
    seen = {path: sum(by_op.values()) for path, by_op in counter.get_flop_counts().items()}
    found = count(model, batch=2, seq=12, pairs="executed")
    paths = {row.name for row in found.modules if row.flops_forward} | {"layers.1", "layers.2.mlp"}
    for path in paths:
        assert found.under(path).flops_forward == seen[f"Transformer.{path}"], path


def test_attention_conventions_differ_by_the_pairs_above_the_diagonal():
    config, seq = small_config(max_seq_len=512), 300
    of = {
        p: count(config, seq=seq, pairs=p)["attention core"].flops_forward
        for p in ("causal", "square", "executed")
    }
    assert of["causal"] < of["executed"] <= of["square"]
    assert of["square"] * (seq + 1) == 2 * seq * of["causal"]


@pytest.mark.parametrize("name", ["tiny", "lab", "small", "deepseek_v3", "deepseek_v2_lite"])
def test_parameters_match_the_modules(name):
    config = getattr(presets, name)()
    with torch.device("meta"):
        model = Transformer(config)
    found = count(model, seq=1).main
    assert (found.parameters, found.active_parameters) == model.count_parameters()


def test_multi_token_prediction_has_its_own_row():
    config = dataclasses.replace(V3, n_mtp_layers=1)
    found = count(config, seq=4096)
    assert found["mtp"].parameters == 11_610_068_224
    assert found.main == dataclasses.replace(
        count(V3, seq=4096).total, name="main model", kind="main model"
    )


def test_published_model():
    found = count(V3, seq=4096)
    assert found.total.parameters == 671_026_419_200
    assert found.total.active_parameters == 37_552_297_472
    assert found["routed experts"].parameters == 653_908_770_816
    per_token = found.total.flops_training / 4096
    assert round(per_token / 1e9, 2) == 250.46
    assert round(found.total.flops_forward / 4096 / 1e9, 2) == 83.49


def test_decoding_the_published_model():
    """A token costs 73.25 GFLOP, plus the work on the cache for each token before it."""
    for latent, per_key in (("naive", 4_997_120), ("absorbed", 16_990_208)):
        short, long = (count(V3, seq=1, context=c, latent=latent).total for c in (0, 1000))
        assert long.flops_forward - short.flops_forward == 1000 * per_key
        assert round(short.flops_forward / 1e9, 1) == 73.3
    rebuilding = 2 * 61 * 512 * 128 * 256  # what absorbing saves: rebuilding keys and values
    short, long = (count(V3, seq=1, context=c).total for c in (0, 1000))
    assert long.flops_forward - short.flops_forward == 1000 * (4_997_120 + rebuilding)


def test_cache_bytes_match_the_cache():
    model, cache = small_model(), KeyValueCache()
    model(random_tokens(model.config, 3, 7), cache=cache)
    assert count(model, batch=3, seq=1, context=6)["attention core"].cache_bytes == cache.n_bytes


def test_bytes_follow_the_dtype():
    config = small_config()
    wide, narrow = (count(config, seq=8, dtype=t) for t in (torch.float32, torch.bfloat16))
    assert wide["router"] == narrow["router"]
    assert wide["head"].bytes_forward == 2 * narrow["head"].bytes_forward
    assert count(Transformer(config).bfloat16(), seq=8).modules == narrow.modules


def test_one_token_reads_the_experts_it_chose_and_many_read_all():
    of = {n: count(V3, seq=n, dtype=torch.bfloat16)["routed experts"] for n in (1, 4096)}
    assert of[1].weight_bytes == 2 * of[1].active_parameters
    assert of[4096].weight_bytes == 2 * of[4096].parameters
    assert of[1].intensity < 1.01 < of[4096].intensity


@pytest.mark.parametrize("changes", [{}, {"q_lora_rank": 6}, {"n_mtp_layers": 1}])
def test_a_step_of_muon_costs_what_torch_counts(changes):
    model = small_model(**changes)
    training_pass(model, 1, 5)
    muon = build_optimizers(model, TrainConfig(), bf16=False)[0]
    assert muon_flops(model.config) == counted(muon.step)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"batch": 0}, "batch: a whole number of at least 1 expected, got 0"),
        ({"seq": -3}, "seq: a whole number of at least 1 expected, got -3"),
        ({"seq": 2.0}, "seq: a whole number"),
        ({"batch": True}, "batch: a whole number"),
        ({"context": -1}, "context: a whole number of at least 0"),
        ({"seq": 65}, "max_seq_len=64 positions expected, got 65"),
        ({"seq": 60, "context": 5}, "max_seq_len=64 positions expected, got 65"),
        ({"pairs": "half"}, "pairs: one of"),
        ({"latent": "none"}, "latent: one of"),
        ({"dtype": 2}, "dtype: a torch.dtype expected, got 2"),
        ({"model": "tiny"}, "model: a ModelConfig or a Transformer expected, got str"),
    ],
)
def test_bad_arguments_are_named(arguments, words):
    fields = {"model": small_config(), "seq": 8} | arguments
    with without_shape_hook(), pytest.raises(ValueError, match=words):
        count(fields.pop("model"), **fields)


def test_unknown_paths_and_kinds_are_named():
    found = count(small_config(), seq=4)
    with pytest.raises(ValueError, match="layers.0.self_attn"):
        found.under("layers.9")
    with pytest.raises(ValueError, match="'attention'"):
        found["attention"]
    assert found.under("layers").parameters + found["head"].parameters < found.total.parameters


def test_the_printed_table_fits_a_terminal():
    text = str(count(V3, seq=4096))
    assert "1 × 4,096 tokens; causal attention" in text
    assert "671.0 G" in text and "1.026 P" in text
    assert max(map(len, text.splitlines())) <= 120
    assert "training" not in str(count(V3, seq=1, context=100))
