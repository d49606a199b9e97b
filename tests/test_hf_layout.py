"""`load_hf` restores exactly what `save_hf` writes; `save_hf` refuses anything else."""

import dataclasses
import json

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from mini_moe import load_hf, save_hf
from mini_moe.hf_layout import empty_model
from mini_moe.model.layers import Linear
from mini_moe.text import default_tokenizer
from tests.helpers import random_tokens, small_config, small_model, without_shape_hook


@pytest.fixture
def folder(tmp_path):
    """A folder that holds a good checkpoint."""
    save_hf(small_model(seed=9), tmp_path)
    return tmp_path


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class LowRank(nn.Module):
    """A linear map with an added low-rank update, as in LoRA."""

    def __init__(self, base):
        super().__init__()
        self.base, self.down, self.up = base, Linear(base.in_features, 2), Linear(2, 5)

    def forward(self, x):
        return self.base(x)


class OtherLinear(Linear):
    def forward(self, x):
        return -super().forward(x)


def replaced(name, make):
    """Return a change that replaces a module by make(module)."""

    def change(model):
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, make(model.get_submodule(name)))

    return change


def set_entry(name, value):
    def change(model):
        model.get_parameter(name).data[0] = value

    return change


def with_config(**changes):
    def change(model):
        model.config = dataclasses.replace(model.config, **changes)

    return change


def with_parameter(name, tensor):
    def change(model):
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, nn.Parameter(tensor, requires_grad=False))

    return change


def attention(model):
    return model.layers[0].self_attn


def mlp(model):
    return model.layers[0].mlp


def router(model):
    return model.layers[1].mlp.gate


def other_linear(old):
    new = OtherLinear(old.in_features, old.out_features)
    new.weight = old.weight
    return new


REFUSED = {
    "LoRA": (replaced("layers.0.self_attn.o_proj", LowRank), "o_proj.base.weight"),
    "another class": (replaced("layers.0.mlp.up_proj", other_linear), "up_proj: Linear .*Other"),
    "a bias": (replaced("layers.0.mlp.up_proj", lambda m: nn.Linear(32, 48)), "up_proj.bias"),
    "nothing": (replaced("layers.0.mlp.up_proj", lambda m: None), "lacks 1.*up_proj"),
    "identity": (replaced("norm", lambda m: nn.Identity()), "lacks 1.*norm.weight"),
    "quantised": (
        replaced("layers.0.mlp.up_proj", lambda m: torch.ao.nn.quantized.dynamic.Linear(32, 48)),
        "up_proj._packed_params",
    ),
    "weight_norm": (lambda m: parametrizations.weight_norm(mlp(m).up_proj), "original0"),
    "orthogonal": (lambda m: parametrizations.orthogonal(attention(m).o_proj), "original"),
    "spectral norm": (lambda m: torch.nn.utils.spectral_norm(mlp(m).up_proj), "weight_orig"),
    "pruned": (lambda m: prune.random_unstructured(mlp(m).up_proj, "weight", 0.5), "weight_mask"),
    "own forward": (lambda m: setattr(mlp(m), "forward", mlp(m).forward), "a custom forward"),
    "extra parameter": (lambda m: m.register_parameter("x", nn.Parameter(torch.ones(2))), "1.*x"),
    "extra buffer": (lambda m: m.norm.register_buffer("x", torch.ones(2)), "1 unknown.*norm.x"),
    "no parameter": (lambda m: delattr(m.norm, "weight"), "lacks 1.*norm.weight"),
    "no bias": (lambda m: setattr(router(m), "e_score_correction_bias", None), "lacks 1.*_bias"),
    "fewer layers": (lambda m: setattr(m, "layers", m.layers[:2]), "lacks .*layers.2"),
    "fewer layers, and in the config": (
        lambda m: (setattr(m, "layers", m.layers[:2]), with_config(n_layers=2)(m)),
        "config is",
    ),
    "layers swapped": (
        lambda m: setattr(m, "layers", nn.ModuleList([m.layers[i] for i in (0, 2, 1)])),
        "layer is 2, but",
    ),
    "one layer twice": (
        lambda m: setattr(m, "layers", nn.ModuleList([m.layers[i] for i in (0, 1, 1)])),
        "layer is 1, but",
    ),
    "one part more": (lambda m: m.layers.append(nn.Identity()), "does not build: layers.3"),
    "no MTP": (lambda m: setattr(m, "mtp", nn.ModuleList()), "lacks .*mtp.0"),
    "more MTP": (lambda m: m.mtp.append(m.mtp[0]), "unknown .*mtp.1"),
    "fewer experts": (
        with_parameter("layers.1.mlp.experts.down_proj", torch.ones(7, 32, 16)),
        r"down_proj: \[8, 32, 16\] expected, got \[7, 32, 16\]",
    ),
    "wider norm": (with_parameter("norm.weight", torch.ones(33)), r"norm.weight: \[32\] expected"),
    "scalar": (with_parameter("norm.weight", torch.ones(())), r"norm.weight: \[32\] expected"),
    "NaN": (set_entry("norm.weight", torch.nan), "model.norm.weight .*not finite"),
    "infinity": (set_entry("lm_head.weight", torch.inf), "lm_head.weight .*not finite"),
    "NaN bias": (lambda m: router(m).e_score_correction_bias.fill_(torch.nan), "not finite"),
    "meta": (lambda m: m.to("meta"), "a plain tensor of floats expected, got .* on meta"),
    "integers": (with_parameter("norm.weight", torch.ones(32, dtype=torch.int8)), "torch.int8"),
    "complex": (with_parameter("norm.weight", torch.ones(32) * 1j), "torch.complex64"),
    "float8": (
        with_parameter("norm.weight", torch.ones(32).to(torch.float8_e4m3fn)),
        "torch.float8_e4m3fn",
    ),
    "sparse": (with_parameter("lm_head.weight", torch.eye(61, 32).to_sparse()), "sparse"),
    "another theta": (with_config(rope_theta=500.0), "config is"),
    "another bias": (with_config(expert_bias=False), "unknown .*e_score_correction_bias"),
    "another head": (with_config(n_heads=4), "expected, got|config is"),
    "another eps": (lambda m: setattr(m.norm, "eps", 0.1), "model.norm.eps is 0.1, but"),
    "another scale": (lambda m: setattr(attention(m), "scale", 1.0), "self_attn.scale is 1.0, but"),
    "no config": (lambda m: setattr(m, "config", {}), "a ModelConfig expected, got dict"),
    "config by force": (
        lambda m: object.__setattr__(m.config, "norm_eps", -1.0),
        "norm_eps=-1.0 must lie between",
    ),
    "head tied in the config": (with_config(tie_embeddings=True), "lm_head.weight differs"),
    "tokenizer too large": (lambda m: setattr(m, "tokenizer", default_tokenizer()), "got 4096"),
    "another tokenizer": (lambda m: setattr(m, "tokenizer", str), "Tokenizer or None expected"),
}


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("name", REFUSED)
def test_a_model_that_would_load_differently_is_refused_and_the_old_one_stays(name, folder):
    change, words = REFUSED[name]
    model, before = small_model(n_mtp_layers=1), contents(folder)
    with torch.no_grad(), without_shape_hook():
        change(model)
        with pytest.raises(ValueError, match=words):
            save_hf(model, folder)
    assert contents(folder) == before


@pytest.mark.parametrize(
    "model", [None, nn.Linear(2, 2), nn.DataParallel(nn.Linear(2, 2)), {}], ids=str
)
def test_only_a_transformer_is_written(model, folder):
    before = contents(folder)
    with without_shape_hook(), pytest.raises(ValueError, match="model: a Transformer expected"):
        save_hf(model, folder)
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dtype": torch.int8}, "dtype: one of .*torch.int8"),
        ({"dtype": torch.float8_e4m3fn}, "dtype: one of .*float8"),
        ({"dtype": "bfloat16"}, "dtype: one of .*'bfloat16'"),
        ({"max_shard_bytes": 0}, "max_shard_bytes=0"),
        ({"max_shard_bytes": "5GB"}, "max_shard_bytes='5GB'"),
    ],
)
def test_options_that_cannot_be_read_back_are_refused(options, words, folder):
    before = contents(folder)
    with without_shape_hook(), pytest.raises(ValueError, match=words):
        save_hf(small_model(), folder, **options)
    assert contents(folder) == before


def test_numbers_beyond_the_written_type_are_refused_on_both_sides(folder):
    model, before = small_model(), contents(folder)
    model.norm.weight.data[0] = 1e5
    with pytest.raises(ValueError, match=r"model.norm.weight .*not finite"):
        save_hf(model, folder, dtype=torch.float16)
    assert contents(folder) == before
    save_hf(model, folder)
    with pytest.raises(ValueError, match=r"model.norm.weight holds numbers beyond .*float16"):
        load_hf(folder, dtype=torch.float16)


def compiled_layers(model):
    model.layers[0] = torch.compile(model.layers[0])
    model.layers[1].mlp.experts = torch.compile(model.layers[1].mlp.experts)
    model.mtp[0].block = torch.compile(model.mtp[0].block)
    return model


WRAPPED = {
    "compiled": torch.compile,
    "compiled layers": compiled_layers,
    "compiled twice": lambda model: torch.compile(compiled_layers(model)),
    "compiled in place": lambda model: (model.compile(), model.layers[1].compile(), model)[-1],
    "data parallel": nn.DataParallel,
    "compiled data parallel": lambda model: torch.compile(nn.DataParallel(model)),
}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
@pytest.mark.any_types
def test_a_wrapped_model_is_written_without_its_wrapper(wrap, tied, tmp_path):
    plain = small_model(n_mtp_layers=1, tie_embeddings=tied)
    expected = {name: tensor.clone() for name, tensor in plain.state_dict().items()}
    save_hf(wrap(plain), tmp_path)
    loaded = load_hf(tmp_path, mtp=True)
    assert loaded.config == dataclasses.replace(plain.config, init_std=plain.config.weight_std)
    state = loaded.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())


def half_in_bfloat16(model):
    model.layers[:2].bfloat16()


def transposed_memory(model):
    model.lm_head.weight.data = model.lm_head.weight.data.t().contiguous().t()


def one_memory(model):
    model.layers[2].mlp.gate.weight = model.layers[1].mlp.gate.weight
    base = torch.randn(1, 32)
    model.embed_tokens.weight.data = base.expand(61, 32)
    model.lm_head.weight = model.embed_tokens.weight
    long = torch.randn(48)
    model.norm.weight.data, model.layers[0].input_layernorm.weight.data = long[:32], long[16:]


def frozen(model):
    model.requires_grad_(False)
    model.train()


@pytest.mark.parametrize("change", [half_in_bfloat16, transposed_memory, one_memory, frozen])
def test_the_numbers_come_back_whatever_the_memory_layout(change, tmp_path):
    model = small_model()
    change(model)
    save_hf(model, tmp_path)
    loaded = load_hf(tmp_path)
    expected = model.state_dict()
    assert all(torch.equal(t, expected[name].float()) for name, t in loaded.state_dict().items())


def test_the_type_in_the_config_loses_nothing(tmp_path):
    model = small_model()
    model.embed_tokens.bfloat16()
    save_hf(model, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "float32"
    save_hf(model.bfloat16(), tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"


def test_equal_copies_are_as_good_as_a_tied_head(tmp_path):
    model = small_model(tie_embeddings=True)
    model.lm_head.weight = nn.Parameter(model.embed_tokens.weight.detach().clone())
    save_hf(model, tmp_path)
    tokens = random_tokens(model.config)
    assert torch.equal(load_hf(tmp_path)(tokens), model(tokens))
    model.lm_head.weight.data += 1
    with pytest.raises(ValueError, match="lm_head.weight differs from embed_tokens.weight"):
        save_hf(model, tmp_path)


def test_building_an_empty_model_draws_no_random_numbers():
    before = torch.get_rng_state()
    empty_model(small_config())
    assert torch.equal(torch.get_rng_state(), before)
