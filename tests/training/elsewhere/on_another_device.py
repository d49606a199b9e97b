"""Tests of training on another device; `test_device.py` runs them in a separate process."""

import json

import pytest
import torch

from mini_moe import TrainConfig, load_hf, save_hf
from mini_moe.device import device_of
from mini_moe.experiments.measures import routing_record
from mini_moe.ops import use
from mini_moe.text import load_corpus
from mini_moe.training import latest_checkpoint
from mini_moe.training import loop as training_loop
from mini_moe.training.add_mtp import add_mtp
from mini_moe.training.context import Phase, extend, train_recall
from mini_moe.training.loop import fresh_state, train_step
from mini_moe.training.speed import matmul_peak
from tests.helpers import relative_error, small_model
from tests.training.elsewhere.other_device import DEVICE, OtherDevice
from tests.training.small_run import (
    small_model_config,
    small_train,
    small_train_config,
    text_corpus,
)

CPU = torch.device("cpu")
RUNS = {
    "muon": {},
    "adamw": {"optimizer": "adamw"},
    "switch": {"balance_loss": "switch", "z_loss_weight": 1e-3, "bias_update": "proportional"},
}
MODELS = {"mixture": {}, "dense": {"n_dense_layers": 2}, "mtp": {"n_mtp_layers": 2}}


@pytest.fixture(autouse=True)
def other_device(monkeypatch):
    """A device that exists, is found by its name and is synchronised."""
    waited = []
    monkeypatch.setattr(training_loop, "as_device", torch.device)
    monkeypatch.setattr(torch.accelerator, "synchronize", waited.append)
    monkeypatch.setattr(training_loop, "matmul_peak", lambda dtype, device: 1e11)
    with (
        OtherDevice(),
        use("pytorch"),
    ):  # it has no compiled kernels, so the CPU doesn't use them either
        yield waited


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return text_corpus(tmp_path_factory.mktemp("corpus"))


def assert_close(found, expected):
    """Assert that weights are equal up to the order of summation."""
    expected = expected.state_dict()
    for name, tensor in found.state_dict().items():
        assert relative_error(tensor.cpu(), expected[name].cpu()) < 1e-3, name


@pytest.mark.parametrize("changes", RUNS.values(), ids=RUNS)
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_a_run_is_the_one_on_the_cpu(corpus, other_device, model, changes):
    runs = [small_train(corpus, model, **changes, device=d, eval_every=3) for d in (DEVICE, CPU)]
    assert device_of(runs[0].model) == DEVICE and other_device
    assert_close(runs[0].model, runs[1].model)
    names = "loss", "mtp_loss", "balance_loss", "z_loss", "gradient_norm", "learning_rate"
    found, expected = ([[r[name] for name in names] for r in run.log] for run in runs)
    assert torch.allclose(torch.tensor(found), torch.tensor(expected), rtol=1e-3)
    found, expected = (run.log[-1]["validation"]["all"] for run in runs)
    assert found == pytest.approx(expected, rel=1e-4)
    layers, expected = (len(run.log[0].get("load", [])) for run in runs)
    assert layers == expected


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
@pytest.mark.parametrize(("first", "second"), [(DEVICE, DEVICE), (CPU, DEVICE), (DEVICE, CPU)])
def test_a_run_resumes_on_the_same_or_another_device(corpus, tmp_path, optimizer, first, second):
    options = {"optimizer": optimizer, "checkpoint_every": 2}
    stop = iter([False, True])
    small_train(corpus, **options, folder=tmp_path, device=first, should_stop=lambda: next(stop))
    assert latest_checkpoint(tmp_path).name == "step_000002"
    run = small_train(corpus, **options, folder=tmp_path, device=second)
    whole = small_train(corpus, **options, device=second)
    assert device_of(run.model) == second
    if first == second:  # the same bits
        expected = whole.model.state_dict()
        assert all(torch.equal(t, expected[n]) for n, t in run.model.state_dict().items())
    assert_close(run.model, whole.model)
    assert [r["loss"] for r in run.log] == pytest.approx([r["loss"] for r in whole.log], rel=1e-4)


def test_autocast_is_that_of_the_device(corpus, monkeypatch):
    asked, autocast = [], torch.autocast

    def note(device_type, *more, **named):
        asked.append(device_type)
        return autocast(device_type, *more, **named)

    monkeypatch.setattr(torch, "autocast", note)
    small_train(corpus, steps=1, device=DEVICE)
    assert set(asked) == {DEVICE.type}


def test_an_mtp_module_is_trained_where_the_model_is(corpus):
    model = small_model(vocab_size=corpus.tokenizer.vocab_size)
    made, log = add_mtp(model, small_train_config(), corpus)
    found, same = add_mtp(model.to(DEVICE), small_train_config(), corpus)
    assert device_of(found) == DEVICE
    assert [r["mtp_loss"] for r in log] == pytest.approx([r["mtp_loss"] for r in same], rel=1e-4)
    assert_close(found, made)


def test_needles_and_longer_contexts_are_learnt_where_the_model_is():
    corpus = load_corpus()
    phases = [Phase(steps=2, seq_len=80, texts=2, rows=2)]
    config = TrainConfig(bf16=False, warmup_steps=2)
    made = []
    for device in (CPU, DEVICE):
        model = small_model(vocab_size=corpus.tokenizer.vocab_size, max_seq_len=128).to(device)
        train_recall(model, phases, config, corpus)
        longer, _ = extend(model, 2.0, phases, config, corpus)
        assert device_of(longer) == device
        made.append(longer)
    assert_close(*made)


def test_a_model_is_saved_from_there(corpus, tmp_path):
    model = small_train(corpus, steps=1, device=DEVICE).model
    save_hf(model, tmp_path)
    assert_close(load_hf(tmp_path), model)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "float32"


def test_experts_are_counted_there(corpus):
    config = small_train_config(eval_every=6)
    run = small_train(corpus, {"n_routed_experts": 12}, device=DEVICE, eval_every=6)
    record = routing_record(run.model, run.log, config, corpus)
    assert record["load"] == routing_record(run.model.cpu(), run.log, config, corpus)["load"]


def test_a_state_may_be_made_there(corpus):
    configs = small_model_config(corpus), small_train_config()
    states = [fresh_state(*configs, corpus, device) for device in (DEVICE, CPU)]
    assert_close(states[0].model, states[1].model)
    assert [train_step(state, configs[1], corpus) for state in states].count(None) == 0


def test_the_peak_is_waited_for(other_device):
    assert matmul_peak(torch.float32, CPU, size=16) > 0 and not other_device


def test_a_tensor_left_behind_is_noticed():
    with pytest.raises(RuntimeError, match="two devices"):
        torch.ones(2, device=DEVICE) + torch.ones(2)
