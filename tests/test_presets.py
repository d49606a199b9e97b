"""Presets have the published sizes, as counted from the modules on the meta device."""

import dataclasses

import pytest
import torch

from mini_moe import presets
from mini_moe.model import Transformer
from mini_moe.model.router import route

# preset → total and active parameters: arXiv 2412.19437 §4.2 and 2405.04434 §3.1.2 give 671B/37B,
# 236B/21B and 15.7B; exact figures follow from the published config.json
PUBLISHED = {
    presets.deepseek_v3: (671_026_419_200, 37_552_297_472),
    presets.deepseek_v2: (235_741_434_880, 21_375_800_320),
    presets.deepseek_v2_lite: (15_706_484_224, 2_661_150_208),
}


def on_meta(config):
    with torch.device("meta"):
        return Transformer(config)


@pytest.mark.parametrize("preset", PUBLISHED, ids=lambda preset: preset.__name__)
def test_parameter_counts_match_the_published_ones(preset):
    assert on_meta(preset()).count_parameters() == PUBLISHED[preset]


def test_parts_of_deepseek_v3_have_their_sizes():
    model = on_meta(presets.deepseek_v3())

    def size(module):
        tensors = (*module.parameters(), *module.buffers())
        return sum(tensor.numel() for tensor in tensors)

    dense, moe = model.layers[2].mlp, model.layers[3].mlp
    assert size(model.layers[0].self_attn) == 187_107_328
    assert size(dense) == 396_361_728
    assert size(moe) == 11_320_164_608
    assert size(moe.experts) == 256 * 44_040_192
    assert size(moe.gate) == 256 * 7168 + 256
    assert model.lm_head.weight.numel() == model.embed_tokens.weight.numel() == 926_679_040
    assert [layer.is_moe for layer in model.layers] == 3 * [False] + 58 * [True]


def test_mtp_module_of_deepseek_v3_has_eleven_billion_parameters_of_its_own():
    config = dataclasses.replace(presets.deepseek_v3(), n_mtp_layers=1)
    model = on_meta(config)
    own = sum(t.numel() for t in (*model.mtp.parameters(), *model.mtp.buffers()))
    assert own == 11_610_068_224
    assert model.count_parameters() == PUBLISHED[presets.deepseek_v3]


@pytest.mark.parametrize(
    ("preset", "bytes_per_token"),
    [(presets.deepseek_v3, 70_272), (presets.deepseek_v2, 69_120)],
    ids=["deepseek_v3", "deepseek_v2"],
)
def test_cache_of_a_token_is_one_latent_and_one_key_per_layer(preset, bytes_per_token):
    """Count what `compress` returns, in bfloat16: arXiv 2405.04434 table 1."""
    config = preset()
    attention = on_meta(config).layers[0].self_attn
    x = torch.empty(1, 1, config.d_model, device="meta")
    rotation = torch.empty(1, config.qk_rope_head_dim // 2, 2, device="meta")
    cached = sum(part.numel() for part in attention.compress(x, rotation))
    assert 2 * cached * config.n_layers == bytes_per_token


LIKE_V3 = [presets.tiny, presets.lab, presets.small, presets.deepseek_v3]


@pytest.mark.parametrize("preset", LIKE_V3, ids=lambda preset: preset.__name__)
def test_presets_like_v3_score_with_sigmoids_and_normalise_the_chosen(preset):
    """Equations 13 and 15. Tests of the code can't catch a wrong setting, so test the presets."""
    config = preset()
    logits = torch.randn(20, config.n_routed_experts)
    routing = route(logits, torch.zeros(config.n_routed_experts), config)
    assert torch.equal(routing.scores, logits.sigmoid())
    total = routing.gates.sum(dim=-1)
    assert torch.allclose(total, torch.full_like(total, config.route_scale), rtol=1e-5)
    assert config.top_k > 1  # one normalised gate would have no gradient


@pytest.mark.parametrize("preset", [presets.tiny, presets.small], ids=["tiny", "small"])
def test_lesson_models_fit_two_cores(preset):
    config = preset()
    total, active = Transformer(config).count_parameters()
    assert active < total < 15e6
    assert config.n_routed_experts > config.top_k > 1
    assert config.score_function == "sigmoid" and config.expert_bias
