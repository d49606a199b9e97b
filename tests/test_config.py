"""Any config gives a working model or raises a ValueError that names the field."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mini_moe.config import ModelConfig, TrainConfig
from mini_moe.model import Transformer
from tests.config_strategy import valid_configs
from tests.helpers import random_tokens, small_config, without_shape_hook

FIELDS = {field.name: field for field in dataclasses.fields(ModelConfig)}
SWITCHES = {
    "score_function": ["sigmoid", "softmax"],
    "group_score": ["top2_sum", "max"],
    "tie_embeddings": [False, True],
    "expert_bias": [False, True],
    "norm_topk_prob": [False, True],
}
JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([10**12, -(10**12), 10**400]),
    st.floats(),
    st.text(max_size=8),
    st.lists(st.integers(), max_size=2),
)
# bounds that keep memory and time small; junk values may exceed them
LARGEST = {"vocab_size": 40, "n_layers": 3, "max_seq_len": 64, "n_mtp_layers": 2, "n_heads": 4}


@pytest.fixture(autouse=True, scope="module")
def own_checks():
    with without_shape_hook():
        yield


def field_values(name):
    """Draw mostly sensible, sometimes extreme, sometimes nonsensical values."""
    if name in SWITCHES:
        good = st.sampled_from(SWITCHES[name])
    elif FIELDS[name].type in (int, int | None):
        good = st.integers(0, LARGEST.get(name, 24))
    else:
        good = st.one_of(st.floats(0.01, 100), st.floats(1e-12, 1e9))
    return st.one_of(*[good] * 20, JUNK)


@st.composite
def drawn_configs(draw):
    """Draw replacements for up to eight fields of the small config."""
    names = draw(st.lists(st.sampled_from(sorted(FIELDS)), max_size=8, unique=True))
    return {name: draw(field_values(name)) for name in names}


def too_large_to_build(changes):
    """Return whether a valid int could make a model too large for this machine's memory."""
    values = [v for name, v in changes.items() if FIELDS[name].type in (int, int | None)]
    return any(isinstance(v, int) and not isinstance(v, bool) and v > 64 for v in values)


@settings(max_examples=300, deadline=None)
@given(drawn_configs())
def test_any_values_make_a_model_that_runs_or_a_named_error(changes):
    try:
        config = small_config(**changes)
    except ValueError as error:
        assert any(name in str(error) for name in FIELDS), str(error)
        return
    if not too_large_to_build(changes):
        assert_runs(config)


@settings(max_examples=300, deadline=None)
@given(valid_configs())
def test_every_consistent_config_runs(config):
    assert_runs(config)


def assert_runs(config):
    """Assert that a fresh model gives finite logits for a short text."""
    torch.manual_seed(0)
    with torch.no_grad():
        logits = Transformer(config)(random_tokens(config, 1, seq=min(5, config.max_seq_len)))
    assert logits.shape[-1] == config.vocab_size
    assert logits.isfinite().all()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"vocab_size": 0}, "vocab_size=0 must be at least 1"),
        ({"d_model": "32"}, "d_model='32': int expected"),
        ({"n_layers": True}, "n_layers=True: int"),
        ({"n_heads": 2.0}, "n_heads=2.0: int"),
        ({"d_ff": 10**12}, "d_ff=1000000000000: int below 2**31 expected"),
        ({"d_ff": 10**400}, "d_ff="),
        ({"norm_eps": math.nan}, "norm_eps=nan: float"),
        ({"rope_theta": math.inf}, "rope_theta=inf: float"),
        ({"rope_theta": 10**400}, "rope_theta="),
        ({"rope_theta": 1.0}, "rope_theta=1.0 must lie between"),
        ({"n_dense_layers": 4}, "n_dense_layers=4 is more than n_layers=3"),
        ({"q_lora_rank": 0}, "q_lora_rank=0"),
        ({"qk_rope_head_dim": 5}, "qk_rope_head_dim=5 must be even"),
        ({"yarn_factor": 0.5}, "yarn_factor=0.5"),
        ({"yarn_beta_fast": 1.0, "yarn_beta_slow": 2.0}, "yarn_beta_slow=2.0"),
        ({"n_expert_groups": 3}, "n_routed_experts=8 is not divisible by n_expert_groups=3"),
        ({"top_k_groups": 2}, "top_k_groups=2 is more than n_expert_groups=1"),
        ({"n_expert_groups": 8}, "top2_sum"),
        ({"n_expert_groups": 4, "top_k": 3}, "top_k=3 is more than the 2 experts"),
        ({"top_k": 9}, "top_k=9"),
        ({"score_function": "tanh"}, "score_function='tanh'"),
        ({"score_function": ["sigmoid"]}, "score_function"),
        ({"group_score": "mean", "n_dense_layers": 3}, "group_score='mean'"),
        ({"route_scale": 0.0}, "route_scale=0.0"),
        ({"init_std": -0.1}, "init_std=-0.1"),
        ({"tie_embeddings": 1}, "tie_embeddings=1: bool expected"),
    ],
)
def test_mistake_is_reported_with_field_and_value(changes, named):
    with pytest.raises(ValueError) as caught:
        small_config(**changes)
    assert named in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"steps": 0}, "steps=0"),
        ({"learning_rate": 0.0}, "learning_rate=0.0"),
        ({"learning_rate": math.nan}, "learning_rate=nan"),
        ({"optimizer": "sgd"}, "optimizer='sgd'"),
        ({"betas": (0.9, 1.0)}, "betas=(0.9, 1.0)"),
        ({"betas": (-0.1, 0.9)}, "betas=(-0.1, 0.9)"),
        ({"betas": (0.9,)}, "betas=(0.9,)"),
        ({"betas": "ab"}, "betas='ab'"),
        ({"bf16": "yes"}, "bf16='yes'"),
        ({"momentum": 1}, "momentum=1"),
        ({"decay_fraction": 1.5}, "decay_fraction=1.5"),
        ({"grad_clip": -1.0}, "grad_clip=-1.0"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_training_mistake_is_reported_with_field_and_value(changes, named):
    with pytest.raises(ValueError) as caught:
        TrainConfig(**changes)
    assert named in str(caught.value)


def test_unknown_field_is_refused():
    with pytest.raises(TypeError, match="n_expert"):
        small_config(n_expert=8)


def test_config_cannot_be_changed_after_its_checks():
    with pytest.raises(dataclasses.FrozenInstanceError):
        small_config().top_k = 100


def test_replacing_a_field_checks_again():
    with pytest.raises(ValueError, match="top_k=9"):
        dataclasses.replace(small_config(), top_k=9)


def test_dense_model_needs_no_expert_fields():
    config = small_config(n_dense_layers=3, n_routed_experts=0, top_k=0, d_expert=0)
    assert config.n_moe_layers == 0
