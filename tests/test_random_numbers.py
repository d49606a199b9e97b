"""Private random numbers match the seed's and leave the global generator alone."""

import dataclasses
import threading

import pytest
import torch
from torch import nn

from mini_moe import Transformer, load_hf, presets, save_hf
from mini_moe.profiling.counting.memory import measure_memory
from mini_moe.random_numbers import OwnRandomNumbers
from mini_moe.teaching.clinic.diseases import DISEASES
from mini_moe.teaching.clinic.instruments import measure
from mini_moe.teaching.clinic.patient import train_patient
from mini_moe.text import load_corpus
from mini_moe.training import latest_checkpoint
from mini_moe.training.add_mtp import add_mtp
from mini_moe.training.context import Phase, extend, train_recall
from mini_moe.training.loop import fresh_state
from mini_moe.views.lab.arms import train_arms
from tests.helpers import random_tokens, small_config, small_model
from tests.training.small_run import (
    small_model_config,
    small_train,
    small_train_config,
    text_corpus,
)

MODELS = {
    "tiny": {},
    "tied": {"tie_embeddings": True},
    "two MTP modules": {"n_mtp_layers": 2},
    "compressed queries": {"q_lora_rank": 12},
    "dense": {"n_dense_layers": 4},
}
DRAWS = {
    "randn": lambda: torch.randn(5),
    "rand": lambda: torch.rand(5),
    "randint": lambda: torch.randint(9, (5,)),
    "randperm": lambda: torch.randperm(5),
    "noise": lambda: torch.randn_like(torch.empty(5)),
    "in place": lambda: torch.empty(5).uniform_(2, 3),
    "choice": lambda: torch.multinomial(torch.ones(9), 3),
    "coins": lambda: torch.bernoulli(torch.full((5,), 0.5)),
    "linear layer": lambda: nn.Linear(3, 4).weight,
    "embedding": lambda: nn.Embedding(3, 4).weight,
}


@pytest.mark.parametrize("changes", MODELS.values(), ids=MODELS)
def test_a_model_gets_the_weights_of_its_seed(changes):
    config = dataclasses.replace(presets.tiny(), **changes)
    torch.manual_seed(7)
    expected = Transformer(config).state_dict()
    with OwnRandomNumbers(7):
        made = Transformer(config).state_dict()
    assert all(torch.equal(made[name], expected[name]) for name in expected)


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_every_draw_is_the_one_after_manual_seed(draw):
    torch.manual_seed(7)
    expected = [draw() for _ in range(2)]
    before = torch.get_rng_state()
    with OwnRandomNumbers(7):
        assert all(torch.equal(draw(), one) for one in expected)
    assert torch.equal(torch.get_rng_state(), before)


def test_an_explicit_generator_goes_first():
    first, second = (torch.Generator().manual_seed(3) for _ in range(2))
    with OwnRandomNumbers(0):
        assert torch.equal(torch.rand(4, generator=first), torch.rand(4, generator=second))


def test_other_threads_draw_what_they_would_have_drawn():
    torch.manual_seed(5)
    expected, found = torch.rand(3), []
    torch.manual_seed(5)
    with OwnRandomNumbers(0):
        thread = threading.Thread(target=lambda: found.append(torch.rand(3)))
        thread.start()
        thread.join()
    assert torch.equal(found[0], expected)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return text_corpus(tmp_path_factory.mktemp("corpus"))


def training(corpus, folder):
    options = {"steps": 4, "folder": folder, "should_stop": lambda: not latest_checkpoint(folder)}

    def work(on_step):
        small_train(corpus, **options, on_step=on_step)
        small_train(corpus, **options, on_step=on_step)  # continues

    return work


def one_fresh_state(corpus, folder):
    return lambda _: fresh_state(small_model_config(corpus), small_train_config(), corpus)


def an_mtp_module(corpus, folder):
    model = small_model(vocab_size=corpus.tokenizer.vocab_size)
    return lambda on_step: add_mtp(model, small_train_config(steps=2), corpus, on_step)


def needles_and_a_longer_context(corpus, folder):
    corpus = load_corpus()
    model = small_model(vocab_size=corpus.tokenizer.vocab_size, max_seq_len=128)
    settings = [Phase(steps=2, seq_len=80, texts=1, rows=1)], small_train_config(), corpus

    def work(on_step):
        train_recall(model, *settings, on_step)
        extend(model, 2.0, *settings, on_step)

    return work


def arms_in_turn(corpus, folder):
    arms = {"first": small_train_config(steps=2), "second": small_train_config(steps=2, seed=1)}
    return lambda step: train_arms(small_model_config(corpus), arms, corpus, on_step=step)


def a_noisy_patient(corpus, folder):
    noisy = next(d.lesion for d in DISEASES if d.name == "noise in evaluation")

    def work(on_step):
        patient = train_patient("A", noisy, load_corpus(), steps=2)
        for instrument in ("bias", "evaluation"):
            measure(patient, instrument, random_tokens(patient.model.config))

    return work


def measured_memory(corpus, folder):
    return lambda _: measure_memory(small_config(), small_train_config())


def a_loaded_model(corpus, folder):
    save_hf(small_model(), folder)
    return lambda _: load_hf(folder)


@pytest.mark.parametrize(
    "make",
    [training, one_fresh_state, an_mtp_module, needles_and_a_longer_context, arms_in_turn]
    + [a_noisy_patient, measured_memory, a_loaded_model],
    ids=lambda make: make.__name__,
)
def test_no_training_touches_the_global_generator(make, corpus, tmp_path, monkeypatch):
    """Not even briefly: another thread may draw at any moment."""
    work = make(corpus, tmp_path)

    def refused(name):
        def touch(*_, **__):
            raise AssertionError(f"{name}: the process-wide generator was used")

        return touch

    for home, name in ((torch, "manual_seed"), (torch, "seed"), (torch, "set_rng_state"),
                       (torch.random, "fork_rng"), (torch.random, "set_rng_state")):  # fmt: skip
        monkeypatch.setattr(home, name, refused(name))
    before, steps = torch.get_rng_state(), []

    def on_step(record):
        steps.append(record)
        assert torch.equal(torch.get_rng_state(), before)

    work(on_step)
    assert torch.equal(torch.get_rng_state(), before)
