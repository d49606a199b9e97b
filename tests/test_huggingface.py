"""Checkpoint formats: shards, MTP layers, FP8 blocks, other routers, tokenizers."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import DeepseekV2Config, DeepseekV2ForCausalLM, DeepseekV3ForCausalLM

from mini_moe import presets
from mini_moe.hf_config import config_from_hf, config_to_hf
from mini_moe.huggingface import load_hf, save_hf
from mini_moe.text import default_tokenizer
from tests.helpers import random_tokens, relative_error, small_model, without_shape_hook
from tests.hf_oracle import VOCAB, random_hf_model

pytestmark = pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")

V3_JSON = {  # deepseek-ai/DeepSeek-V3, config.json, without what has no bearing on the result
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


def same_weights(one, two):
    """Equal bits in every parameter and buffer."""
    state, other = one.state_dict(), two.state_dict()
    return state.keys() == other.keys() and all(torch.equal(state[k], other[k]) for k in state)


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


@pytest.mark.parametrize("shard_bytes", [2_000, 40_000])
def test_shards_are_read_and_written(shard_bytes, tmp_path):
    theirs = random_hf_model(3)
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size=shard_bytes)
    assert len(list((tmp_path / "theirs").glob("*.safetensors"))) > 3
    tokens = torch.randint(0, VOCAB, (2, 20))
    expected = theirs(tokens).logits
    ours = load_hf(tmp_path / "theirs")
    assert (ours(tokens) - expected).abs().max() <= 1e-5

    save_hf(ours, tmp_path / "ours", max_shard_bytes=shard_bytes)
    index = json.loads((tmp_path / "ours" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == {
        path.name for path in (tmp_path / "ours").glob("*.safetensors")
    }
    assert same_weights(load_hf(tmp_path / "ours"), ours)
    returned = DeepseekV3ForCausalLM.from_pretrained(tmp_path / "ours").eval()
    assert torch.equal(returned(tokens).logits, expected)


def test_saving_again_replaces_other_numbers_of_shards(tmp_path):
    models = [small_model(seed) for seed in range(4)]
    for model, shard_bytes in zip(models, (3_000, 10**9, 20_000, 3_000), strict=True):
        save_hf(model, tmp_path, max_shard_bytes=shard_bytes)
        assert same_weights(load_hf(tmp_path), model)
        named = {"config.json", "model.safetensors.index.json"}
        others = {p.name for p in tmp_path.iterdir() if p.suffix != ".safetensors"}
        assert others <= named


@pytest.mark.parametrize(
    "changes",
    [
        {"score_function": "softmax", "expert_bias": False, "group_score": "max"},
        {"n_dense_layers": 3},
        {"latent_norm_eps": 1e-5},
        {"tie_embeddings": True, "q_lora_rank": 12},
        {"n_shared_experts": 0, "n_mtp_layers": 2},
    ],
    ids=str,
)
def test_any_model_comes_back_bit_by_bit(changes, tmp_path):
    model = small_model(**changes)
    save_hf(model, tmp_path)
    loaded = load_hf(tmp_path, mtp=True)
    assert same_weights(model, loaded)
    tokens = random_tokens(model.config)
    assert torch.equal(model(tokens), loaded(tokens))
    assert not loaded.training


def test_only_a_model_that_is_exactly_v3_calls_itself_so():
    assert config_to_hf(small_model().config)["model_type"] == "deepseek_v3"
    for changes in ({"score_function": "softmax"}, {"expert_bias": False}, {"n_dense_layers": 3}):
        assert config_to_hf(small_model(**changes).config)["model_type"] == "mini_moe"


def test_mtp_layers_have_deepseeks_names(tmp_path):
    model = small_model(n_mtp_layers=1)
    save_hf(model, tmp_path)
    names = {name for name in load_file(tmp_path / "model.safetensors") if ".layers.3." in name}
    own = {name.removeprefix("model.layers.3.") for name in names}
    assert {"enorm.weight", "hnorm.weight", "eh_proj.weight", "shared_head.norm.weight"} <= own
    assert {"mlp.gate.e_score_correction_bias", "mlp.experts.7.up_proj.weight"} <= own
    assert "input_layernorm.weight" in own and "self_attn.kv_b_proj.weight" in own


def test_repeated_embedding_and_head_of_an_mtp_layer_are_accepted_if_equal(tmp_path):
    model = small_model(n_mtp_layers=1)
    save_hf(model, tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.3.embed_tokens.weight"] = model.embed_tokens.weight.data.clone()
    tensors["model.layers.3.shared_head.head.weight"] = model.lm_head.weight.data.clone()
    save_file(tensors, path)
    assert same_weights(load_hf(tmp_path, mtp=True), model)
    tensors["model.layers.3.embed_tokens.weight"][0, 0] += 1
    save_file(tensors, path)
    with pytest.raises(ValueError, match=r"layers\.3\.embed_tokens\.weight differs"):
        load_hf(tmp_path, mtp=True)


@pytest.mark.parametrize("changes", [{}, {"tie_embeddings": True}, {"score_function": "softmax"}])
def test_mtp_layers_stay_in_the_files_unless_asked_for(changes, tmp_path):
    whole = small_model(n_mtp_layers=2, **changes)
    save_hf(whole, tmp_path)
    loaded = load_hf(tmp_path)
    assert loaded.config.n_mtp_layers == 0 and not loaded.mtp
    state, expected = loaded.state_dict(), whole.state_dict()
    assert state.keys() == {name for name in expected if not name.startswith("mtp.")}
    assert all(torch.equal(tensor, expected[name]) for name, tensor in state.items())
    tokens = random_tokens(whole.config)
    assert torch.equal(loaded(tokens), whole(tokens))

    save_hf(loaded, tmp_path / "without")
    assert same_weights(load_hf(tmp_path / "without", mtp=True), loaded)


@pytest.mark.parametrize("mtp", [False, True])
def test_a_broken_mtp_layer_is_named_even_where_it_is_not_loaded(mtp, tmp_path):
    save_hf(small_model(n_mtp_layers=1), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    lost = tensors.pop("model.layers.3.enorm.weight")
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"lacks 1 tensor.*layers\.3\.enorm"):
        load_hf(tmp_path, mtp=mtp)
    tensors["model.layers.3.enorm.weight"] = lost[:-1].clone()
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"layers\.3\.enorm\.weight: \[\d+\] expected"):
        load_hf(tmp_path, mtp=mtp)


def quantise(weight):
    """Block by block, as DeepSeek's kernel does: q = w / s with s = amax / 448."""
    rows, columns = weight.shape
    scale = torch.empty(-(-rows // 128), -(-columns // 128))
    quantised = torch.empty_like(weight, dtype=torch.float8_e4m3fn)
    restored = torch.empty_like(weight)
    for i in range(scale.shape[0]):
        for j in range(scale.shape[1]):
            block = (slice(128 * i, 128 * i + 128), slice(128 * j, 128 * j + 128))
            scale[i, j] = weight[block].abs().amax().clamp(min=1e-4) / 448
            quantised[block] = (weight[block] / scale[i, j]).to(torch.float8_e4m3fn)
            restored[block] = quantised[block].float() * scale[i, j]
    return quantised, scale, restored


@pytest.mark.parametrize("separate_file", [False, True])
def test_fp8_weights_are_multiplied_by_the_scale_of_their_block(separate_file, tmp_path):
    model = small_model(d_model=192, d_ff=300, kv_lora_rank=130, d_expert=140, v_head_dim=70)
    save_hf(model, tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    exact, scales = dict(tensors), {}
    for name, tensor in list(tensors.items()):
        if "_proj" in name:
            tensors[name], scales[f"{name}_scale_inv"], exact[name] = quantise(tensor)
    assert any(scale.shape[0] > 1 and scale.shape[1] > 1 for scale in scales.values())
    if separate_file:
        save_file(tensors, tmp_path / "a.safetensors")
        save_file(scales, tmp_path / "b.safetensors")
        where = {n: "a.safetensors" for n in tensors} | {n: "b.safetensors" for n in scales}
        index = tmp_path / "model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": where}))
    else:
        save_file(tensors | scales, path)
    loaded = load_hf(tmp_path)
    save_file(exact, path)
    (tmp_path / "model.safetensors.index.json").unlink(missing_ok=True)
    assert same_weights(loaded, load_hf(tmp_path))
    tokens = random_tokens(model.config)
    assert 0 < relative_error(loaded(tokens), model(tokens)) < 0.5


def test_expert_bias_stays_single_precision(tmp_path):
    model = small_model()
    save_hf(model, tmp_path, dtype=torch.bfloat16)
    stored = load_file(tmp_path / "model.safetensors")
    for name, tensor in stored.items():
        wanted = torch.float32 if name.endswith("bias") else torch.bfloat16
        assert tensor.dtype == wanted, name
    loaded = load_hf(tmp_path, dtype=torch.bfloat16)
    bias = loaded.layers[1].mlp.gate.e_score_correction_bias
    assert torch.equal(bias, model.layers[1].mlp.gate.e_score_correction_bias)


def test_tokenizer_travels_with_the_model_and_leaves_with_it(tmp_path):
    model = small_model()
    model.tokenizer = default_tokenizer()
    save_hf(model, tmp_path)
    loaded = load_hf(tmp_path)
    text = "Routing – weißt du?"
    assert loaded.tokenizer.encode(text) == model.tokenizer.encode(text)
    model.tokenizer = None
    save_hf(model, tmp_path)
    assert load_hf(tmp_path).tokenizer is None


def test_whole_deepseek_v2_gives_transformers_logits(tmp_path):
    """Its weights have V3's names, so only config.json has to be written anew."""
    torch.manual_seed(0)
    widths = {"kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8}
    theirs = DeepseekV2ForCausalLM(
        DeepseekV2Config(
            **widths,
            vocab_size=61,
            hidden_size=32,
            intermediate_size=48,
            moe_intermediate_size=16,
            num_hidden_layers=3,
            num_attention_heads=2,
            num_key_value_heads=2,
            q_lora_rank=12,
            n_routed_experts=8,
            n_shared_experts=2,
            num_experts_per_tok=2,
            first_k_dense_replace=1,
            n_group=4,
            topk_group=2,
            topk_method="group_limited_greedy",
            routed_scaling_factor=16.0,
            max_position_embeddings=64,
            initializer_range=0.08,
        )
    ).eval()
    theirs.save_pretrained(tmp_path)
    changes = {"q_lora_rank": 12, "n_shared_experts": 2, "n_expert_groups": 4, "top_k_groups": 2}
    router = {"score_function": "softmax", "expert_bias": False, "group_score": "max"}
    config = small_model(
        **changes, **router, norm_topk_prob=False, route_scale=16.0, init_std=0.08
    ).config
    (tmp_path / "config.json").write_text(json.dumps(config_to_hf(config)))
    tokens = random_tokens(config, 2, 30)
    assert (load_hf(tmp_path)(tokens) - theirs(tokens).logits).abs().max() <= 1e-5
