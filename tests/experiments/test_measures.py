"""Curves, and corpora restricted to some domains."""

import numpy as np
import pytest

from mini_moe.experiments.measures import curve, only_domains, rounded, settings
from mini_moe.text import Corpus, Split


@pytest.fixture
def three_domains(corpus):
    """Build a corpus with six tokens of three domains in each split."""
    split = Split(np.arange(6, dtype=np.uint16), np.array([0, 1, 2, 2, 1, 0], np.uint8), 12)
    bytes_of = {name: {side: {"bytes": n} for side in ("train", "validation")}
                for name, n in (("a", 3), ("b", 4), ("c", 5))}  # fmt: skip
    return Corpus(split, split, corpus.tokenizer, ("a", "b", "c"), {"domains": bytes_of})


def test_a_corpus_keeps_the_order_of_its_documents(three_domains):
    kept = only_domains(three_domains, ("c", "a"))
    assert kept.train.tokens.tolist() == [0, 2, 3, 5]
    assert kept.train.domains.tolist() == [1, 0, 0, 1]  # positions in the new list of names
    assert kept.domain_names == ("c", "a")
    assert kept.validation.n_bytes == 8
    assert kept.validation_by_domain["c"].tokens.tolist() == [2, 3]


def test_without_names_the_corpus_is_unchanged(three_domains):
    assert only_domains(three_domains, ()) is three_domains


def test_unknown_domains_are_refused(three_domains):
    with pytest.raises(ValueError, match=r"expected one of \('a', 'b', 'c'\), got 'law'"):
        only_domains(three_domains, ("law",))


def test_the_domains_are_part_of_the_settings(arms):
    import dataclasses

    assert "data" not in settings(arms["moe"], 0)
    arm = dataclasses.replace(arms["moe"], domains=("a",))
    assert settings(arm, 0)["data"] == {"domains": ("a",)}


def test_points_of_a_curve_average_ten_steps_and_all_layers():
    log = [{"step": n, "seconds": n / 2, "loss": float(n), "max_violation": [1.0, n]}
           for n in range(1, 26)]  # fmt: skip
    assert curve(log, "loss") == [[10, 5.0, 5.5], [20, 10.0, 15.5]]
    assert curve(log, "max_violation") == [[10, 5.0, 3.25], [20, 10.0, 8.25]]


def test_numbers_are_rounded_at_any_depth():
    assert rounded({"a": [0.12345678, [1.0]]}, 3) == {"a": [0.123, [1.0]]}
