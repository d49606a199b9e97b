"""Validation predicts every token once and weights domains by their tokens."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mini_moe.text import Corpus, Split
from mini_moe.text.tokenizer import character_tokenizer
from mini_moe.training import evaluation
from mini_moe.training.evaluation import split_loss, validation_losses
from tests.helpers import small_model


def two_domains(sizes: tuple[int, int], vocab_size: int = 61) -> Corpus:
    """Make random tokens, with the documents of two domains mixed."""
    draw = np.random.default_rng(0)
    domains = draw.permutation(np.repeat(np.arange(2, dtype=np.uint8), sizes))
    tokens = draw.integers(0, vocab_size, size=sum(sizes)).astype(np.uint16)
    split = Split(tokens, domains, sum(sizes))
    names = ("first", "second")
    counted = {n: {"validation": {"bytes": s}} for n, s in zip(names, sizes, strict=True)}
    return Corpus(split, split, character_tokenizer("ab"), names, {"domains": counted})


@torch.no_grad()
def by_brute_force(model, tokens: np.ndarray, seq_len: int) -> float:
    """One forward pass per row of seq_len targets, the last row shifted back as in `windows`."""
    tokens = torch.from_numpy(tokens.astype(np.int64))
    total = 0.0
    for target in range(1, len(tokens)):
        start = (target - 1) // seq_len * seq_len
        start = min(start, max(len(tokens) - seq_len - 1, 0))
        logits = model(tokens[None, start:target])[0, -1]
        total += float(F.cross_entropy(logits, tokens[target]))
    return total / (len(tokens) - 1)


@pytest.mark.parametrize("seq_len", [4, 7, 60])
def test_losses_equal_brute_force_per_domain(seq_len):
    model, corpus = small_model(), two_domains((38, 15))
    losses = validation_losses(model, corpus, seq_len)
    for name in ("first", "second"):
        tokens = corpus.validation_by_domain[name].tokens
        expected = by_brute_force(model, tokens, min(seq_len, len(tokens) - 1))
        assert losses[name] == pytest.approx(expected, rel=1e-5)
    mean = (losses["first"] * 37 + losses["second"] * 14) / 51
    assert losses["all"] == pytest.approx(mean) and list(losses) == ["first", "second", "all"]


def test_loss_of_a_model_that_knows_nothing_is_ln_vocabulary():
    model = small_model()
    torch.nn.init.zeros_(model.lm_head.weight)
    losses = validation_losses(model, two_domains((50, 9)), 8)
    assert all(loss == pytest.approx(np.log(61), rel=1e-6) for loss in losses.values())


def test_batch_size_does_not_matter(monkeypatch):
    model, corpus = small_model(), two_domains((90, 41))
    whole = validation_losses(model, corpus, 8)
    for at_once in (1, 20, 50):
        monkeypatch.setattr(evaluation, "BATCH_TOKENS", at_once)
        assert validation_losses(model, corpus, 8) == pytest.approx(whole, rel=1e-6)


def test_a_limit_reads_the_beginning_of_each_domain():
    model, corpus = small_model(), two_domains((60, 12))
    limited = validation_losses(model, corpus, 8, most_tokens=20)
    start = corpus.validation_by_domain["first"]
    start = Split(start.tokens[:20], start.domains[:20], 20)
    assert limited["first"] == split_loss(model, start, 9)
    assert limited["second"] == validation_losses(model, corpus, 8)["second"]
    mean = (limited["first"] * 19 + limited["second"] * 11) / 30
    assert limited["all"] == pytest.approx(mean)


def test_evaluation_leaves_weights_biases_and_gradients_alone():
    model = small_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    validation_losses(model, two_domains((30, 30)), 8)
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
