"""A small corpus, model and profile that the profiling tests share."""

import pytest
import torch

from mini_moe import Transformer
from mini_moe.profiling import profile_step
from tests.training.small_run import small_model_config, small_train_config, text_corpus


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    return text_corpus(tmp_path_factory.mktemp("text"))


@pytest.fixture
def model(corpus):
    torch.manual_seed(0)
    return Transformer(small_model_config(corpus))


@pytest.fixture
def config():
    return small_train_config()


@pytest.fixture(scope="session")
def profiled(corpus):
    """Profile a training step; return the model and the profile."""
    torch.manual_seed(0)
    model = Transformer(small_model_config(corpus))
    return model, profile_step(model, small_train_config(), corpus, steps=2, warm_up=1)
