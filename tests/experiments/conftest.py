"""A small corpus, and arms that run in a second."""

import dataclasses

import pytest

from mini_moe.experiments.designs import Arm
from mini_moe.text import Corpus
from tests.training.small_run import small_model_config, small_train_config, text_corpus


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Corpus:
    return text_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(autouse=True)
def peak_of_100_gigaflops(monkeypatch):
    monkeypatch.setattr("mini_moe.training.loop.matmul_peak", lambda dtype, device: 1e11)


@pytest.fixture
def arms(corpus) -> dict[str, Arm]:
    """Build a mixture with a shared expert and knock-outs, and a dense network."""
    moe = small_model_config(corpus, n_routed_experts=12, n_layers=3)
    plan = small_train_config(steps=20, eval_every=20)
    dense = dataclasses.replace(moe, n_dense_layers=moe.n_layers)
    return {"moe": Arm(moe, plan, knock_outs=True), "dense": Arm(dense, plan)}


@pytest.fixture
def corpus_and_arms(monkeypatch, corpus, arms):
    """Make the command line run these arms on this corpus."""
    monkeypatch.setattr("mini_moe.experiments.__main__.load_corpus", lambda: corpus)
    designs = {"balance": lambda: arms, "sparsity": lambda: arms}
    monkeypatch.setattr("mini_moe.experiments.__main__.DESIGNS", designs)
    return corpus, arms
