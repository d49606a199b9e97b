"""Settings in config.json mean the same as in transformers, or cause an error or a warning."""

import json
import warnings

import pytest
import torch
from transformers import DeepseekV3ForCausalLM

from mini_moe import load_hf, presets
from mini_moe.hf_config import config_from_hf, config_to_hf
from tests.helpers import without_shape_hook
from tests.hf_oracle import VOCAB, random_hf_model

pytestmark = pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")

V3_JSON = {  # deepseek-ai/DeepSeek-V3, config.json, without entries that don't affect the result
    "model_type": "deepseek_v3",
    "attention_bias": False,
    "first_k_dense_replace": 3,
    "hidden_act": "silu",
    "hidden_size": 7168,
    "initializer_range": 0.02,
    "intermediate_size": 18432,
    "kv_lora_rank": 512,
    "max_position_embeddings": 163840,
    "moe_intermediate_size": 2048,
    "moe_layer_freq": 1,
    "n_group": 8,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_attention_heads": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 61,
    "num_key_value_heads": 128,
    "num_nextn_predict_layers": 1,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "rms_norm_eps": 1e-06,
    "rope_scaling": {
        "beta_fast": 32,
        "beta_slow": 1,
        "factor": 40,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "original_max_position_embeddings": 4096,
        "type": "yarn",
    },
    "rope_theta": 10000,
    "routed_scaling_factor": 2.5,
    "scoring_func": "sigmoid",
    "tie_word_embeddings": False,
    "topk_group": 4,
    "topk_method": "noaux_tc",
    "v_head_dim": 128,
    "vocab_size": 129280,
}


def test_published_config_is_the_preset():
    with without_shape_hook():  # the published file writes some floats as ints
        config = config_from_hf(V3_JSON | {"initializer_range": presets.deepseek_v3().weight_std})
        preset = presets.deepseek_v3()
        assert config == type(preset)(**{**vars(preset), "init_std": preset.weight_std})
        written = config_to_hf(config)
    ours = {name: written[name] for name in V3_JSON if name not in ("rope_scaling",)}
    differing = {name for name, value in ours.items() if value != V3_JSON[name]}
    assert differing == {"initializer_range", "num_nextn_predict_layers"}
    assert V3_JSON["rope_scaling"].items() <= written["rope_scaling"].items()


ROPE = {"rope_type": "default", "rope_theta": 10_000.0}
SHAPE = {"rope_parameters": ROPE, "n_group": 2, "topk_group": 1, "n_routed_experts": 8}
SHAPE |= {"num_experts_per_tok": 2, "num_attention_heads": 2, "num_hidden_layers": 2}
SHAPE |= {"first_k_dense_replace": 1, "tie_word_embeddings": False, "max_position_embeddings": 64}
YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}


@pytest.fixture(scope="module")
def written_by_transformers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("v3")
    random_hf_model(5, initializer_range=0.1, **SHAPE).save_pretrained(folder)
    return folder


@pytest.fixture
def checkpoint(written_by_transformers, tmp_path):
    """A function that returns the checkpoint with a changed config.json; None drops an entry."""

    def change(**changes):
        content = json.loads((written_by_transformers / "config.json").read_text())
        content |= changes
        content = {n: value for n, value in content.items() if changes.get(n, 0) is not None}
        (tmp_path / "config.json").write_text(json.dumps(content))
        weights = tmp_path / "model.safetensors"
        weights.unlink(missing_ok=True)
        weights.symlink_to(written_by_transformers / "model.safetensors")
        return tmp_path

    return change


def logits_of_both(folder):
    tokens = torch.randint(0, VOCAB, (2, 60), generator=torch.Generator().manual_seed(0))
    theirs = DeepseekV3ForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return load_hf(folder)(tokens), theirs(tokens).logits


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_scaling": YARN},  # in addition to rope_parameters: the usual way to enable YaRN
        {"rope_scaling": YARN, "rope_parameters": None, "rope_theta": 500.0},
        {"rope_scaling": YARN | {"rope_theta": 10_000}},
        {"rope_scaling": YARN | {"rope_type": "yarn", "mscale": 1.0, "mscale_all_dim": 0.5}},
        {"rope_scaling": YARN | {"mscale": 0.707, "mscale_all_dim": 0.707}},
        {"rope_scaling": YARN | {"mscale": 0.707}},
        {"rope_scaling": YARN | {"mscale_all_dim": 0.7}},
        {"rope_scaling": YARN | {"beta_fast": 4, "beta_slow": 2}},
        {"rope_scaling": YARN | {"beta_fast": None, "mscale": None}},
        {"rope_scaling": YARN, "original_max_position_embeddings": 16},
        {"rope_scaling": {}, "rope_parameters": YARN | {"rope_theta": 100.0}},
        {"rope_parameters": {"rope_theta": 100.0}},
        {"rope_parameters": None, "rope_theta": 100},
        {"rope_parameters": None},
        {"norm_topk_prob": False},
        {"norm_topk_prob": True},
        {"routed_scaling_factor": 7.0},
        {"n_group": 1, "topk_group": 1},
        {"n_group": 4, "topk_group": 3},
        {"num_experts_per_tok": 4},
        {"rms_norm_eps": 0.1},
        {"head_dim": 4, "num_key_value_heads": 2},
        {"attention_dropout": 0.5},
        {"torch_dtype": "bfloat16", "dtype": None},
    ],
    ids=str,
)
def test_settings_mean_the_same_as_in_transformers(changes, checkpoint, written_by_transformers):
    content = json.loads((written_by_transformers / "config.json").read_text())
    if "head_dim" in changes:
        changes["head_dim"] = content["qk_rope_head_dim"]
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="config.json")
        ours, theirs = logits_of_both(checkpoint(**changes))
    assert (ours - theirs).abs().max() <= 1e-5


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rope_theta": 500.0}, ["rope_theta=500.0", "10000.0"]),
        (
            {"rope_scaling": YARN, "rope_parameters": ROPE | {"rope_theta": 500.0}},
            ["rope_parameters: rope_theta=500.0", "10000.0"],
        ),
        ({"rope_scaling": YARN | {"rope_theta": 50.0}}, ["rope_theta=10000.0", "50.0"]),
        ({"rope_scaling": YARN | {"rope_type": "default"}}, ["type='yarn'", "'default'"]),
        ({"rope_scaling": {"factor": 4.0}}, ["factor", "no rope_type"]),
        ({"rope_scaling": YARN | {"type": "dynamic"}}, ["'dynamic'"]),
        ({"rope_scaling": YARN | {"attention_factor": 1.5}}, ["attention_factor=1.5"]),
        ({"rope_scaling": YARN | {"truncate": False}}, ["truncate=False"]),
        ({"rope_scaling": YARN | {"truncate": None}}, ["truncate=None"]),
        ({"rope_scaling": YARN | {"partial_rotary_factor": 0.5}}, ["partial_rotary_factor=0.5"]),
        ({"partial_rotary_factor": 0.5}, ["partial_rotary_factor=0.5"]),
        (
            {"rope_scaling": YARN, "original_max_position_embeddings": 32},
            ["original_max_position_embeddings=32", "16"],
        ),
        ({"rope_parameters": [1]}, ["rope_parameters must be an object"]),
        ({"head_dim": 16}, ["head_dim=16", "qk_rope_head_dim"]),
        ({"qk_head_dim": 96}, ["qk_head_dim=96"]),
        ({"num_key_value_heads": 1}, ["num_key_value_heads=1", "num_attention_heads 2"]),
        ({"num_local_experts": 4}, ["num_local_experts=4", "n_routed_experts 8"]),
        ({"rope_interleave": False}, ["rope_interleave=True expected, got False"]),
        ({"hidden_act": "gelu"}, ["hidden_act='silu' expected, got 'gelu'"]),
        ({"attention_bias": True}, ["attention_bias"]),
        ({"scoring_func": "softmax"}, ["scoring_func"]),
        ({"topk_method": "greedy"}, ["topk_method"]),
        ({"moe_layer_freq": 2}, ["moe_layer_freq"]),
        ({"quantization_config": {"quant_method": "gptq"}}, ["quantization_config", "gptq"]),
        (
            {"quantization_config": {"quant_method": "fp8", "weight_block_size": [64, 64]}},
            ["weight_block_size=[128, 128] expected", "[64, 64]"],
        ),
        ({"n_group": None}, ["lacks n_group"]),
        ({"model_type": "deepseek_v32"}, ["model_type", "'kimi_k2'", "'deepseek_v32'"]),
        ({"model_type": "deepseek_v2", "norm_topk_prob": False}, ["e_score_correction_bias"]),
    ],
    ids=str,
)
def test_contradictory_and_unsupported_settings_are_refused(changes, words, checkpoint):
    with pytest.raises(ValueError) as caught:
        load_hf(checkpoint(**changes))
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"sliding_window": 16}, "sliding_window"),
        ({"logit_scale": 2.0}, "logit_scale"),
        ({"rope_scaling": YARN | {"finetuned": True}}, "rope_scaling.finetuned"),
    ],
)
def test_unknown_settings_cause_a_warning(changes, name, checkpoint):
    with pytest.warns(UserWarning, match=f"config.json: not used: {name}$"):
        load_hf(checkpoint(**changes))


def test_settings_without_effect_cause_no_warning(checkpoint):
    extras = {"sliding_window": False, "ep_size": 1, "seq_aux": True, "aux_loss_alpha": 0.001}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_hf(checkpoint(**extras))
