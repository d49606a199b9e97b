"""The built corpus, and an evaluation that takes only moments."""

import pytest

from mini_moe.text import load_corpus


@pytest.fixture(scope="module")
def corpus():
    return load_corpus()


@pytest.fixture(autouse=True)
def short_evaluation(monkeypatch):
    monkeypatch.setattr("mini_moe.training.context.recall.EVAL_TOKENS", 300)
