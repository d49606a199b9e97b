"""Checkpoint formats: shards, MTP layers, FP8 blocks, other routers, tokenizers."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import DeepseekV3ForCausalLM

from mini_moe.huggingface import load_hf, save_hf
from tests.helpers import random_tokens, relative_error, small_model
from tests.hf_oracle import VOCAB, random_hf_model

pytestmark = pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")


def same_weights(one, two):
    """Return whether every parameter and buffer is bitwise equal."""
    state, other = one.state_dict(), two.state_dict()
    return state.keys() == other.keys() and all(torch.equal(state[k], other[k]) for k in state)


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


def test_saving_again_works_with_a_different_number_of_shards(tmp_path):
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
def test_mtp_layers_are_loaded_only_on_request(changes, tmp_path):
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
def test_a_broken_mtp_layer_is_named_even_if_it_is_not_loaded(mtp, tmp_path):
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
    """Quantise block by block, as DeepSeek's kernel does: q = w / s with s = amax / 448."""
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
