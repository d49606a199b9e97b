"""Multi-token prediction against transformers' own module, with the same weights."""

import dataclasses

import pytest
import torch
from transformers.modeling_layers import MtpModel

from mini_moe.huggingface import load_hf, save_hf
from mini_moe.model import Transformer
from tests.helpers import CHAIN_TOLERANCE, random_tokens, relative_error, small_model
from tests.hf_oracle import VOCAB, random_hf_model

pytestmark = pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")


def their_mtp(theirs, ours):
    """Build transformers' MTP module with our weights; its checkpoint names assume 61 layers."""
    mtp = MtpModel(theirs, num_mtp_layers=1).eval()
    state = mtp.state_dict()
    for name, tensor in ours.mtp[0].state_dict().items():
        name = name.replace("block.", "mtp_block.") if name.startswith("block.") else name
        name = "post_norm.weight" if name == "norm.weight" else name
        state[f"layers.0.{name}"].copy_(tensor.reshape(state[f"layers.0.{name}"].shape))
    return mtp


@pytest.mark.parametrize("seed", range(6))
def test_hidden_vectors_match_transformers(seed, tmp_path):
    theirs = random_hf_model(seed, num_mtp_layers=1, n_shared_experts=1)
    theirs.save_pretrained(tmp_path)
    plain = load_hf(tmp_path)
    ours = with_mtp_module(plain)
    tokens = torch.randint(0, VOCAB, (1, 20))
    shifted = tokens[:, 1:]
    positions = torch.arange(shifted.shape[1])[None]
    with torch.no_grad():
        hidden = ours.hidden(tokens)[:, :-1]
        expected = their_mtp(theirs, ours).forward_layer(
            0, hidden, position_ids=positions, mtp_cache=None, input_ids=shifted
        )
        assert (
            relative_error(ours.mtp_hidden(hidden, shifted), expected)
            <= CHAIN_TOLERANCE[torch.float32]
        )


def with_mtp_module(plain):
    """Return the same model with one randomly initialised MTP module."""
    model = Transformer(dataclasses.replace(plain.config, n_mtp_layers=1)).eval()
    model.load_state_dict(plain.state_dict(), strict=False)
    with torch.no_grad():
        for name, tensor in (*model.mtp.named_parameters(), *model.mtp.named_buffers()):
            tensor.uniform_(0.5, 1.5) if "norm" in name else tensor.normal_(std=0.1)
    return model


def test_module_is_loaded_if_the_files_have_it(tmp_path):
    model = small_model(n_mtp_layers=2)
    save_hf(model, tmp_path)
    loaded = load_hf(tmp_path, mtp=True)
    tokens = random_tokens(model.config)
    hidden = loaded.hidden(tokens)[:, :-1]
    for depth in range(2):
        expected = model.mtp_hidden(hidden, tokens[:, 1:], depth)
        assert torch.equal(loaded.mtp_hidden(hidden, tokens[:, 1:], depth), expected)


def test_modules_do_not_change_the_main_model():
    with_modules = small_model(n_mtp_layers=1)
    without = small_model()
    without.load_state_dict(with_modules.state_dict(), strict=False)
    tokens = random_tokens(without.config)
    assert torch.equal(with_modules(tokens), without(tokens))
    assert with_modules.count_parameters() == without.count_parameters()


def test_prediction_uses_the_next_token_and_nothing_later():
    model = small_model(n_mtp_layers=1).double()
    tokens = random_tokens(model.config, 1, 10)
    hidden = model.hidden(tokens)[:, :-1]
    changed = tokens.clone()
    changed[0, 5] = (changed[0, 5] + 1) % model.config.vocab_size
    before = model.mtp_hidden(hidden, tokens[:, 1:])
    after = model.mtp_hidden(hidden, changed[:, 1:])
    moved = (before - after).abs().amax(dim=-1)[0] > 1e-9
    assert moved.tolist() == 4 * [False] + 5 * [True]


def test_depth_that_does_not_exist_is_named():
    model = small_model(n_mtp_layers=1)
    tokens = random_tokens(model.config)
    with pytest.raises(ValueError, match="depth=1"):
        model.mtp_hidden(model.hidden(tokens), tokens, depth=1)
