"""Given the same weights, logits and gradients match transformers' DeepseekV3ForCausalLM."""

import pytest
import torch
from transformers import DeepseekV3ForCausalLM

from mini_moe.huggingface import load_hf, save_hf
from tests.helpers import relative_error
from tests.hf_oracle import (
    VOCAB,
    gradient_pairs,
    next_token_loss,
    random_hf_config,
    random_hf_model,
)

# transformers builds empty matrices if there are no shared experts
pytestmark = pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")

CASES = 110
LARGEST_LOGIT_ERROR = 1e-5
GRADIENT_TOLERANCE = 1e-4


@pytest.mark.parametrize("seed", range(CASES))
def test_logits_and_gradients_match_transformers(seed, tmp_path):
    theirs = random_hf_model(seed)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load_hf(tmp_path / "theirs")
    tokens = torch.randint(0, VOCAB, (2, 40))

    expected, logits = theirs(tokens).logits, ours(tokens)
    assert (logits - expected).abs().max() <= LARGEST_LOGIT_ERROR

    save_hf(ours, tmp_path / "ours")
    returned = DeepseekV3ForCausalLM.from_pretrained(tmp_path / "ours").eval()
    assert torch.equal(returned(tokens).logits, expected)

    next_token_loss(expected, tokens).backward()
    next_token_loss(logits, tokens).backward()
    assert_gradients_agree(ours, theirs)


def assert_gradients_agree(ours, theirs):
    """Compare each to 1e-4 of its norm, plus 1e-7 of the largest norm for rounding noise."""
    pairs = list(gradient_pairs(ours, theirs))
    noise = 1e-7 * max(expected.norm() for _, _, expected in pairs)
    for name, gradient, expected in pairs:
        error = (gradient - expected).norm()
        assert error <= GRADIENT_TOLERANCE * expected.norm() + noise, name


def test_random_configs_reach_every_switch():
    configs = [random_hf_config(seed) for seed in range(CASES)]

    def values(name):
        return {getattr(config, name) for config in configs}

    assert values("q_lora_rank") == {None, 24}
    assert values("n_group") == {1, 2, 4}
    assert values("n_shared_experts") == {0, 1, 2}
    assert values("num_experts_per_tok") == set(range(1, 9))
    assert values("norm_topk_prob") == values("tie_word_embeddings") == {True, False}
    assert values("first_k_dense_replace") == {0, 1, 2}
    assert values("num_hidden_layers") == {1, 2, 3, 4}
    yarn = [c.rope_parameters for c in configs if c.rope_parameters["rope_type"] == "yarn"]
    assert 0 < len(yarn) < CASES
    assert {(r["mscale"], r["mscale_all_dim"]) for r in yarn} == {
        (m, a) for m in (1.0, 0.707) for a in (1.0, 0.5)
    }


@pytest.mark.parametrize("seed", range(8))
def test_bf16_is_as_close_to_fp32_as_transformers_bf16_is(seed, tmp_path):
    """Choose every expert, since rounding could otherwise change which ones are chosen."""
    everyone = {"n_group": 1, "topk_group": 1, "n_routed_experts": 4, "num_experts_per_tok": 4}
    theirs = random_hf_model(seed, initializer_range=0.08, **everyone)
    theirs.save_pretrained(tmp_path)
    tokens = torch.randint(0, VOCAB, (2, 40))
    exact = theirs(tokens).logits
    ours = load_hf(tmp_path, dtype=torch.bfloat16)
    reference = DeepseekV3ForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    our_error = relative_error(ours(tokens), exact)
    assert our_error < 0.03
    assert our_error < 1.25 * relative_error(reference(tokens).logits, exact)
