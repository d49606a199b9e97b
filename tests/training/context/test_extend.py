"""YaRN stretches a copy and two phases train it; a model that can't be extended is refused."""

import pytest
import torch

from mini_moe.model.rope import yarn_frequencies
from mini_moe.training.context import Phase, extend, stretched
from tests.helpers import random_tokens, small_model
from tests.training.context.short_run import CONFIG, PHASES, fresh


def test_a_stretched_copy_has_the_weights_and_yarns_frequencies():
    model = small_model()
    made = stretched(model, 4.0)
    config = made.config
    assert (config.yarn_factor, config.yarn_original_seq_len, config.max_seq_len) == (4.0, 64, 256)
    state = made.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    own = {parameter.data_ptr() for parameter in made.parameters()}
    assert own.isdisjoint(parameter.data_ptr() for parameter in model.parameters())
    assert torch.allclose(yarn_frequencies(config)[-1], yarn_frequencies(model.config)[-1] / 4)
    assert not made.training and model.config.yarn_factor == 1


@pytest.mark.parametrize("tied", [False, True])
def test_a_stretched_copy_has_the_types_and_leaves_the_generator_alone(tied):
    model = small_model(tie_embeddings=tied).to(torch.bfloat16)
    before = torch.get_rng_state()
    made = stretched(model, 4.0)
    assert torch.equal(torch.get_rng_state(), before)
    assert {p.dtype for p in made.parameters()} == {torch.bfloat16}
    assert (made.lm_head.weight is made.embed_tokens.weight) == tied
    assert len(list(made.parameters())) == len(list(model.parameters()))


@torch.no_grad()
def test_factor_one_only_lifts_the_limit():
    model = small_model()
    made = stretched(model, 1.0, max_seq_len=128)
    tokens = random_tokens(model.config, seq=64)
    assert torch.equal(made(tokens), model(tokens))
    assert made(random_tokens(model.config, seq=128)).shape[1] == 128


def test_extending_trains_a_copy_at_the_longer_lengths(corpus):
    model = fresh(corpus)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    phases = [PHASES[0], Phase(steps=2, seq_len=300, texts=1, rows=1)]
    made, log = extend(model, 4.0, phases, CONFIG, corpus)
    assert [record["seq_len"] for record in log] == [80, 80, 80, 300, 300]
    assert made.config.max_seq_len == 512 and made.config.yarn_factor == 4
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in before)
    assert not torch.equal(made.lm_head.weight, model.lm_head.weight)


@pytest.mark.parametrize(
    ("factor", "length", "said"),
    [
        (0.5, None, "factor=0.5"),
        (1.0, None, "more than the model's 64 expected"),
        (4.0, 64, "more than the model's 64 expected"),
        (float("nan"), None, "factor=nan"),
        (float("inf"), None, "factor=inf"),
    ],
)
def test_a_stretch_without_extension_is_refused(factor, length, said):
    with pytest.raises(ValueError, match=said):
        stretched(small_model(), factor, length)


def test_a_model_is_extended_once_and_by_more_than_one(corpus):
    with pytest.raises(ValueError, match=r"already extended, yarn_factor=4\.0"):
        stretched(stretched(small_model(), 4.0), 4.0)
    with pytest.raises(ValueError, match=r"factor=1\.0 must be above 1"):
        extend(fresh(corpus), 1.0, PHASES, CONFIG, corpus)
