"""DeepSeek-V2, Kimi K2 and all-dense models: how each is read and written."""

import dataclasses
import json

import pytest
import torch
from huggingface_hub.errors import StrictDataclassFieldValidationError
from hypothesis import HealthCheck, given, settings
from transformers import DeepseekV2ForCausalLM, DeepseekV3ForCausalLM

from mini_moe import load_hf, save_hf
from mini_moe.hf_config import config_from_hf, config_to_hf
from tests.config_strategy import valid_configs
from tests.helpers import random_tokens, small_config, small_model
from tests.hf_oracle import VOCAB, random_hf_model, random_v2_model

pytestmark = pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")


@pytest.mark.parametrize("seed", range(4))
def test_kimi_k2_is_a_deepseek_v3_by_another_name(seed, tmp_path):
    theirs = random_hf_model(seed)
    theirs.save_pretrained(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    content |= {"model_type": "kimi_k2", "architectures": ["DeepseekV3ForCausalLM"]}
    content["auto_map"] = {"AutoConfig": "configuration_deepseek.DeepseekV3Config"}
    (tmp_path / "config.json").write_text(json.dumps(content))
    tokens = torch.randint(0, VOCAB, (2, 40))
    assert (load_hf(tmp_path)(tokens) - theirs(tokens).logits).abs().max() <= 1e-5


@pytest.mark.parametrize("seed", range(24))
def test_deepseek_v2_gives_transformers_logits(seed, tmp_path):
    theirs = random_v2_model(seed)
    theirs.save_pretrained(tmp_path)
    tokens = torch.randint(0, VOCAB, (2, 60))
    assert (load_hf(tmp_path)(tokens) - theirs(tokens).logits).abs().max() <= 1e-5
    save_hf(load_hf(tmp_path), tmp_path / "ours")
    returned = DeepseekV2ForCausalLM.from_pretrained(tmp_path / "ours").eval()
    assert torch.equal(returned(tokens).logits, theirs(tokens).logits)


def test_random_v2_configs_reach_every_switch():
    configs = [random_v2_model(seed).config for seed in range(24)]
    assert {c.topk_method for c in configs} == {"greedy", "group_limited_greedy"}
    assert {c.q_lora_rank for c in configs} == {None, 24}
    assert {c.rope_parameters["rope_type"] for c in configs} == {"default", "yarn"}
    assert {c.first_k_dense_replace for c in configs} == {0, 1}


def test_greedy_v2_ignores_its_groups_and_warns_about_normalisation(tmp_path):
    theirs = random_v2_model(0, topk_method="greedy", n_group=4, topk_group=1)
    theirs.save_pretrained(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(content | {"norm_topk_prob": True}))
    with pytest.warns(UserWarning, match="norm_topk_prob is ignored"):
        ours = load_hf(tmp_path)
    tokens = torch.randint(0, VOCAB, (2, 60))
    assert (ours(tokens) - theirs(tokens).logits).abs().max() <= 1e-5


@pytest.mark.parametrize("first_dense", [2, 5])
@pytest.mark.parametrize("tied", [True, False])
def test_an_all_dense_v3_stays_one(first_dense, tied, tmp_path):
    changes = {"num_hidden_layers": 2, "first_k_dense_replace": first_dense}
    theirs = random_hf_model(1, tie_word_embeddings=tied, **changes)
    theirs.save_pretrained(tmp_path / "theirs")
    save_hf(load_hf(tmp_path / "theirs"), tmp_path / "ours")
    assert json.loads((tmp_path / "ours/config.json").read_text())["model_type"] == "deepseek_v3"
    returned = DeepseekV3ForCausalLM.from_pretrained(tmp_path / "ours").eval()
    tokens = torch.randint(0, VOCAB, (2, 20))
    assert torch.equal(returned(tokens).logits, theirs(tokens).logits)


def test_a_dense_model_without_any_experts_is_a_v3(tmp_path):
    experts = dict.fromkeys(["n_routed_experts", "n_shared_experts", "top_k", "d_expert"], 0)
    model = small_model(n_dense_layers=3, **experts)
    save_hf(model, tmp_path)
    returned = DeepseekV3ForCausalLM.from_pretrained(tmp_path).eval()
    tokens = random_tokens(model.config)
    assert (returned(tokens).logits - model(tokens)).abs().max() <= 1e-5


OTHERS = [{"score_function": "softmax"}, {"expert_bias": False}, {"latent_norm_eps": 1e-5}]
OTHERS += [{"n_dense_layers": 3, "n_mtp_layers": 1}]
V2 = {"score_function": "softmax", "expert_bias": False, "group_score": "max"}
V2 |= {"norm_topk_prob": False}
OTHERS += [V2 | {"n_mtp_layers": 1}, V2 | {"n_heads": 3}, V2 | {"norm_topk_prob": True}]


@pytest.mark.parametrize("changes", OTHERS, ids=str)
def test_only_an_exact_v3_is_labelled_v3(changes, tmp_path):
    assert config_to_hf(small_config())["model_type"] == "deepseek_v3"
    model = small_model(**changes)
    save_hf(model, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "mini_moe"
    assert load_hf(tmp_path, mtp=True).config == model.config
    with pytest.raises(StrictDataclassFieldValidationError, match="hidden_size"):
        DeepseekV3ForCausalLM.from_pretrained(tmp_path)


@pytest.mark.parametrize("changes", [V2, V2 | {"n_expert_groups": 2, "top_k_groups": 1}, {}])
@pytest.mark.any_types
def test_whole_numbers_are_written_as_transformers_expects(changes, tmp_path):
    whole = {"route_scale": 2, "rope_theta": 100, "yarn_factor": 4, "yarn_mscale": 1}
    model = small_model(**changes | whole)
    save_hf(model, tmp_path)
    reference = DeepseekV2ForCausalLM if changes else DeepseekV3ForCausalLM
    tokens = random_tokens(model.config, 2, 30)
    returned = reference.from_pretrained(tmp_path).eval()
    assert (returned(tokens).logits - model(tokens)).abs().max() <= 1e-5


@pytest.mark.parametrize("changes", [{}, {"yarn_factor": 4.0}, {"n_dense_layers": 3}, V2, *OTHERS])
def test_a_config_comes_back(changes):
    config = small_config(init_std=0.1, **changes)
    content = json.loads(json.dumps(config_to_hf(config)))
    assert dataclasses.asdict(config_from_hf(content, config.n_mtp_layers)) == vars(config)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(config=valid_configs())
def test_any_config_comes_back_from_its_file(config):
    content = json.loads(json.dumps(config_to_hf(config)))
    read = config_from_hf(content, config.n_mtp_layers)
    if config.yarn_factor == 1:  # YaRN has no effect then, and is not written
        kept = {name: value for name, value in vars(config).items() if name.startswith("yarn_")}
        read = dataclasses.replace(read, **kept)
    assert read.weight_std == config.weight_std
    assert dataclasses.replace(read, init_std=config.init_std) == config
