"""Any checkpoint folder loads the same model or raises an error that names the problem."""

import copy
import json
import shutil
import struct

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from mini_moe.huggingface import load_hf, save_hf
from tests.helpers import random_tokens, small_model, without_shape_hook

INDEX = "model.safetensors.index.json"
# Each example rewrites the fuzzed folder, which hypothesis can't know.
FUZZ = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(autouse=True, scope="module")
def own_checks():
    with without_shape_hook():
        yield


@pytest.fixture(scope="module")
def model():
    return small_model(n_layers=2, n_routed_experts=4, q_lora_rank=6, yarn_factor=2.0)


@pytest.fixture(scope="module")
def good(model, tmp_path_factory):
    """A folder that loads; tests change copies of it."""
    folder = tmp_path_factory.mktemp("good")
    save_hf(model, folder)
    return folder


@pytest.fixture
def folder(good, tmp_path):
    return shutil.copytree(good, tmp_path / "checkpoint")


@pytest.fixture
def no_memory(monkeypatch):
    """Fail if a model's memory is allocated."""

    def refuse(*_, **__):
        raise AssertionError("memory was allocated for a checkpoint that can't be loaded")

    monkeypatch.setattr(torch.nn.Module, "to_empty", refuse)


def edit_json(path, changes):
    """Overwrite entries; None is written as null."""
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | changes))


def edit_tensors(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def refused(folder, *words):
    """Assert that load_hf raises one of the two errors, with these words."""
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        load_hf(folder)
    for word in words:
        assert word in str(caught.value)


def assert_same_or_refused(folder, model):
    """Assert that load_hf gives this model or one of the two errors, and nothing else."""
    try:
        loaded = load_hf(folder)
    except (ValueError, FileNotFoundError) as error:
        assert len(str(error)) > 10
        return
    expected = model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())


def test_a_folder_that_is_not_a_checkpoint_is_named(tmp_path):
    refused(tmp_path / "nowhere", "nowhere", "no such folder")
    refused(tmp_path, "config.json")
    (tmp_path / "config.json").write_text("{}")
    refused(tmp_path, "model.safetensors")
    (tmp_path / "model.safetensors").mkdir()
    refused(tmp_path, "model.safetensors")
    (tmp_path / "model.safetensors").rmdir()
    (tmp_path / "model.safetensors").write_bytes(b"")
    refused(tmp_path, "model.safetensors", "truncated")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("model.norm.weight"), ["lacks 1 tensor", "model.norm.weight"]),
        (lambda t: t.update(extra=torch.ones(2)), ["has 1 unknown tensor", "extra"]),
        (lambda t: t.update({"model.norm.weight": torch.ones(31)}), ["[32] expected, got [31]"]),
        (lambda t: t["lm_head.weight"].fill_(torch.nan), ["lm_head.weight", "not finite"]),
        (lambda t: t["lm_head.weight"][3].fill_(torch.inf), ["lm_head.weight", "not finite"]),
        (
            lambda t: t.update({"model.norm.weight": torch.ones(32, dtype=torch.int32)}),
            ["model.norm.weight", "torch.int32"],
        ),
        (
            lambda t: t.update({"lm_head.weight": t["lm_head.weight"].to(torch.float8_e4m3fn)}),
            ["lm_head.weight is torch.float8_e4m3fn", "lm_head.weight_scale_inv"],
        ),
        (
            lambda t: t.update({"lm_head.weight_scale_inv": torch.ones(1, 1)}),
            ["lm_head.weight_scale_inv", "FP8"],
        ),
        (
            lambda t: t.update(
                {
                    "lm_head.weight": t["lm_head.weight"].to(torch.float8_e4m3fn),
                    "lm_head.weight_scale_inv": torch.ones(2, 1),
                }
            ),
            ["lm_head.weight_scale_inv: [1, 1] expected, got [2, 1]"],
        ),
        (lambda t: t.clear(), ["tensors"]),
    ],
)
def test_wrong_tensor_is_named(change, words, folder):
    edit_tensors(folder, change)
    refused(folder, *words)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"weight_map": {"lm_head.weight": "gone.safetensors"}}, ["lacks gone.safetensors"]),
        ({"weight_map": {"x": "../good/model.safetensors"}}, [INDEX, "model.safetensors"]),
        ({"weight_map": {"x": "/etc/passwd"}}, [INDEX, "passwd"]),
        ({"weight_map": {"x": "config.json"}}, [INDEX, "config.json"]),
        ({"weight_map": {"x": ".."}}, [INDEX]),
        ({"weight_map": {"x": ""}}, [INDEX]),
        ({"weight_map": {"x": 5}}, ["weight_map"]),
        ({"weight_map": {}}, ["weights"]),
        ({"weight_map": ["model.safetensors"]}, ["weight_map"]),
        ({}, ["weight_map"]),
        ([], ["JSON object", "list"]),
    ],
)
def test_wrong_index_is_named(content, words, folder):
    (folder / INDEX).write_text(json.dumps(content))
    refused(folder, *words)


def test_tensor_in_two_shards_is_refused(folder):
    shutil.copy(folder / "model.safetensors", folder / "again.safetensors")
    where = {"a": "model.safetensors", "b": "again.safetensors"}
    (folder / INDEX).write_text(json.dumps({"weight_map": where}))
    refused(folder, "model.safetensors", "again.safetensors", "so does")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["config.json", "not JSON"]),
        ("[1]", ["config.json", "list"]),
        ("null", ["config.json", "NoneType"]),
        ("[" * 100_000, ["config.json", "not JSON"]),
        ('{"a":' * 100_000, ["config.json", "not JSON"]),
        ('{"model_type": "llama"}', ["model_type", "llama"]),
        ('{"model_type": ["deepseek_v3"]}', ["model_type"]),
        ('{"model_type": "deepseek_v3"}', ["config.json lacks", "hidden_size"]),
        ('{"model_type": "mini_moe"}', ["vocab_size"]),
        ('{"model_type": "mini_moe", "speed": 9}', ["unknown entries: speed"]),
        ("{\ud800}".encode("utf-8", "surrogatepass"), ["config.json", "not JSON"]),
    ],
    ids=lambda value: str(value)[:24],
)
def test_wrong_config_file_is_named(text, words, folder):
    (folder / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    refused(folder, *words)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden_act": "gelu"}, ["hidden_act"]),
        ({"attention_bias": True}, ["attention_bias"]),
        ({"scoring_func": "softmax"}, ["scoring_func"]),
        ({"topk_method": "greedy"}, ["topk_method"]),
        ({"rope_scaling": [1]}, ["rope_scaling"]),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, ["rope", "linear"]),
        ({"rope_scaling": {"type": "yarn", "factor": 2.0}}, ["YaRN lacks", "original_max"]),
        ({"rope_theta": None}, ["rope_theta"]),
        ({"hidden_size": "32"}, ["d_model='32'"]),
        ({"num_hidden_layers": 3}, ["lacks", "model.layers.2."]),
        ({"num_hidden_layers": 1}, ["unknown", "model.layers.1."]),
        ({"q_lora_rank": None}, ["q_proj"]),
    ],
)
def test_setting_that_does_not_fit_is_named(changes, words, folder):
    edit_json(folder / "config.json", changes)
    refused(folder, *words)


SIZES = ["vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "kv_lora_rank"]
SIZES += ["qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "q_lora_rank", "num_hidden_layers"]
SIZES += ["n_routed_experts", "n_shared_experts", "moe_intermediate_size"]


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("size", [2_000, 2**31 - 2, 10**12, 10**30, -1, 0, 1e9, True])
def test_wrong_size_is_refused_before_memory_is_allocated(name, size, folder, no_memory):
    edit_json(folder / "config.json", {name: size})
    refused(folder)


def test_all_sizes_at_once_do_not_overflow(folder, no_memory):
    edit_json(folder / "config.json", dict.fromkeys(SIZES[:7], 2**31 - 2))
    refused(folder)


@FUZZ
@given(data=st.data())
def test_truncated_files_are_refused(data, good, folder, model):
    name = data.draw(st.sampled_from(["model.safetensors", "config.json"]))
    whole = (good / name).read_bytes()
    (folder / name).write_bytes(whole[: data.draw(st.integers(0, len(whole) - 2))])
    refused(folder, name)
    shutil.copy(good / name, folder / name)


@FUZZ
@given(data=st.data())
def test_flipped_header_byte_gives_the_same_model_or_an_error(data, good, folder, model):
    whole = bytearray((good / "model.safetensors").read_bytes())
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    whole[data.draw(st.integers(0, header - 1))] ^= data.draw(st.integers(1, 255))
    (folder / "model.safetensors").write_bytes(whole)
    assert_same_or_refused(folder, model)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 40) | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=4,
) | st.sampled_from([10**12, -(10**12), 10**400, 1e308, 2**63])


@FUZZ
@given(data=st.data())
def test_any_config_value_gives_a_model_that_runs_or_an_error(data, good, folder):
    content = json.loads((good / "config.json").read_text())
    changed = copy.deepcopy(content)
    inner = changed["rope_scaling"]
    for _ in range(data.draw(st.integers(1, 3))):
        target = data.draw(st.sampled_from([changed, changed, inner]))
        target[data.draw(st.sampled_from(sorted(target)))] = data.draw(JSON_VALUES)
    (folder / "config.json").write_text(json.dumps(changed))
    try:
        loaded = load_hf(folder)
    except (ValueError, FileNotFoundError) as error:
        assert len(str(error)) > 10
        return
    tokens = random_tokens(loaded.config, 1, min(4, loaded.config.max_seq_len))
    assert loaded(tokens).isfinite().all()


@FUZZ
@given(content=st.binary(max_size=200))
def test_arbitrary_bytes_are_refused(content, folder):
    (folder / "model.safetensors").write_bytes(content)
    refused(folder, "model.safetensors")


@FUZZ
@given(content=st.binary(max_size=60))
def test_arbitrary_header_is_refused(content, folder):
    header = struct.pack("<Q", len(content)) + content + bytes(8)
    (folder / "model.safetensors").write_bytes(header)
    refused(folder)


def test_broken_tokenizer_is_named(folder):
    (folder / "tokenizer.json").write_text('{"version": "1.0"')
    refused(folder, "tokenizer.json")
