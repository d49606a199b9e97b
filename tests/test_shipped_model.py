"""The shipped model: its weights, its MTP layer, and how both load."""

import hashlib
import json
import re

import pytest
import torch
from safetensors.torch import load_file
from transformers import DeepseekV3ForCausalLM

from mini_moe import load_hf, save_hf
from mini_moe.inference import Sampling, complete, speculate
from mini_moe.inference.speculative import Speculation
from mini_moe.text import data_folder

FOLDER = data_folder() / "checkpoints" / "tiny"
# hash of every weight but the MTP layer's, as `python -m mini_moe.training` saved them
TRUNK = "466422d54b589f9b57da2e689e64f04483c6c2fd946d1d7f0e738699a2f24bf4"


@pytest.fixture(scope="module")
def whole():
    """The model with its MTP module."""
    return load_hf(FOLDER, mtp=True)


@pytest.fixture(scope="module")
def plain():
    """The model as it loads by default."""
    return load_hf(FOLDER)


def test_the_mtp_layer_came_to_a_model_that_stayed_bit_by_bit():
    digest, tensors = hashlib.sha256(), load_file(FOLDER / "model.safetensors")
    for name in sorted(tensors):
        if not name.startswith("model.layers.4."):
            digest.update(name.encode() + tensors[name].view(torch.uint8).numpy().tobytes())
    assert digest.hexdigest() == TRUNK


def test_config_json_counts_the_mtp_layers_that_the_file_holds(whole, plain):
    content = json.loads((FOLDER / "config.json").read_text())
    names = load_file(FOLDER / "model.safetensors")
    held = [name for name in names if re.fullmatch(r"model\.layers\.\d+\.eh_proj\.weight", name)]
    assert held == [f"model.layers.{content['num_hidden_layers']}.eh_proj.weight"]
    assert content["num_nextn_predict_layers"] == len(whole.mtp) == whole.config.n_mtp_layers == 1
    assert len(plain.mtp) == plain.config.n_mtp_layers == 0


def test_without_its_mtp_layer_it_is_the_same_model(whole, plain):
    tokens = torch.arange(1, 4001, 40)[None]
    with torch.no_grad():
        assert torch.equal(whole(tokens), plain(tokens))
    others = {name: t for name, t in whole.state_dict().items() if not name.startswith("mtp.")}
    state = plain.state_dict()
    assert state.keys() == others.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in others.items())


@torch.no_grad()
def test_transformers_reads_it_and_gives_the_same_logits(plain):
    theirs = DeepseekV3ForCausalLM.from_pretrained(FOLDER, dtype=torch.float32).eval()
    tokens = torch.arange(1, 4001, 10).view(2, 200)
    expected = theirs(tokens).logits
    error = (plain(tokens) - expected).abs().max() / expected.abs().max()
    assert error < 1e-5


def test_it_comes_back_from_a_saving_bit_by_bit(whole, tmp_path):
    save_hf(whole, tmp_path, dtype=torch.bfloat16)
    saved, shipped = (load_file(path / "model.safetensors") for path in (tmp_path, FOLDER))
    assert saved.keys() == shipped.keys()
    assert all(torch.equal(saved[name], tensor) for name, tensor in shipped.items())
    again, state = load_hf(tmp_path, mtp=True).state_dict(), whole.state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in state.items())
    assert json.loads((tmp_path / "config.json").read_text()) == json.loads(
        (FOLDER / "config.json").read_text()
    )


def test_it_writes_the_same_with_proposals_at_one_and_a_half_tokens_a_pass(whole, plain):
    greedy, told, same = Sampling(temperature=0.0), {}, []
    for domain, prompts in json.loads((data_folder() / "prompts.json").read_text()).items():
        found = [speculate(whole, each, 32, sampling=greedy) for each in prompts]
        expected = [complete(plain, [each], 32, sampling=greedy)[0] for each in prompts]
        same += [one == other for (one, _), other in zip(found, expected, strict=True)]
        told[domain] = Speculation([each for _, rounds in found for each in rounds.rounds])
    assert len(told) == 6 and all(same)
    everything = Speculation([each for one in told.values() for each in one.rounds])
    assert everything.tokens_per_pass >= 1.5
    assert min(one.tokens_per_pass for one in told.values()) >= 1.4


def test_its_logs_are_those_of_the_commands_that_the_readme_gives():
    readme = (data_folder() / "README.md").read_text("utf-8")
    for log, command in (("log.jsonl", "training "), ("mtp_log.jsonl", "training.add_mtp ")):
        last = json.loads((FOLDER / log).read_text().splitlines()[-1])
        assert re.search(
            rf"python -m mini_moe\.{re.escape(command)}[^`]*--steps {last['step']}\b", readme
        ), log
