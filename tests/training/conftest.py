"""The corpus for every test here; the matmul peak is measured only by tests about it."""

import pytest

from mini_moe.text import Corpus
from tests.training.small_run import text_corpus


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Corpus:
    return text_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(autouse=True)
def peak_of_100_gigaflops(monkeypatch):
    monkeypatch.setattr("mini_moe.training.loop.matmul_peak", lambda dtype, device: 1e11)
