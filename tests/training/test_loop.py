"""What a run logs, when it evaluates and stops, and what it leaves unchanged."""

import json
import signal
import threading

import pytest
import torch

from mini_moe.huggingface import load_hf
from mini_moe.model import Transformer
from mini_moe.training import TrainingDiverged, latest_checkpoint
from mini_moe.training.loop import interrupt_flag
from mini_moe.training.speed import flops_per_token
from tests.training.small_run import small_train, text_corpus

ALWAYS = {
    "step", "loss", "mtp_loss", "balance_loss", "z_loss", "gradient_norm", "learning_rate",
    "seconds", "tokens_per_second", "flops_utilisation",
}  # fmt: skip
OF_EXPERTS = {"load", "max_violation"}


@pytest.fixture
def models(monkeypatch):
    """The models that `train` builds, newest last."""
    made = []

    def build(config):
        made.append(Transformer(config))
        return made[-1]

    monkeypatch.setattr("mini_moe.training.loop.Transformer", build)
    return made


def log_of(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def bits(model):
    return {name: tensor.numpy().tobytes() for name, tensor in model.state_dict().items()}


def test_each_record_has_the_documented_fields(corpus, tmp_path):
    run = small_train(corpus, {"n_mtp_layers": 1}, eval_every=4, folder=tmp_path)
    assert [set(r) - {"validation"} for r in run.log] == [ALWAYS | OF_EXPERTS] * 6
    assert [r["step"] for r in run.log if "validation" in r] == [4, 6]
    assert set(run.log[3]["validation"]) == {"text", "all"}
    assert [len(layer) for layer in run.log[0]["load"]] == [
        4,
        4,
    ]  # one MoE layer and the MTP module
    assert log_of(tmp_path) == run.log and not run.stopped


def test_a_dense_model_logs_no_load(corpus):
    run = small_train(corpus, {"n_dense_layers": 2}, steps=2)
    assert set(run.log[0]) == ALWAYS and run.log[0]["mtp_loss"] == 0


def test_utilisation_is_rate_times_flops_over_peak(corpus):
    run = small_train(corpus)
    flops = flops_per_token(run.model, 16)
    for record in run.log:
        expected = record["tokens_per_second"] * flops / 1e11
        assert record["flops_utilisation"] == pytest.approx(expected)
    gaps = [b["seconds"] - a["seconds"] for a, b in zip(run.log, run.log[1:], strict=False)]
    rates = [record["tokens_per_second"] for record in run.log[1:]]
    assert [64 / gap for gap in gaps] == pytest.approx(rates)


def test_log_every_thins_the_log_but_not_on_step(corpus, tmp_path):
    seen = []
    run = small_train(
        corpus, steps=11, log_every=4, eval_every=6, folder=tmp_path, on_step=seen.append
    )
    assert [r["step"] for r in run.log] == [4, 6, 8, 11] == [r["step"] for r in log_of(tmp_path)]
    assert [r["step"] for r in seen] == list(range(1, 12))


def test_learning_rate_follows_the_schedule(corpus):
    run = small_train(corpus, learning_rate=0.03, warmup_steps=2, decay_fraction=0.5)
    rates = [0.01, 0.02, 0.03, 0.03, 0.02, 0.01]
    assert [r["learning_rate"] for r in run.log] == pytest.approx(rates)


def test_caller_keeps_its_random_numbers(corpus, tmp_path):
    before = torch.get_rng_state()
    small_train(corpus, steps=2, bf16=None, folder=tmp_path)
    small_train(corpus, steps=2, bf16=None, folder=tmp_path)  # restores a checkpoint
    assert torch.equal(torch.get_rng_state(), before)


def test_random_numbers_of_the_caller_do_not_matter(corpus):
    torch.manual_seed(1)
    first = small_train(corpus, on_step=lambda record: torch.rand(3))
    torch.manual_seed(2)
    assert bits(first.model) == bits(small_train(corpus).model)
    assert bits(first.model) != bits(small_train(corpus, seed=1).model)


def test_checkpoints_and_logging_change_no_bit(corpus, tmp_path):
    plain = small_train(corpus)
    watched = small_train(
        corpus, folder=tmp_path, checkpoint_every=1, eval_every=1, log_every=3, progress=True
    )
    assert bits(plain.model) == bits(watched.model)


def test_model_is_returned_ready_to_generate(corpus):
    model = small_train(corpus, steps=1).model
    assert not model.training and model.tokenizer is corpus.tokenizer


def test_bf16_trains_too(corpus):
    run = small_train(corpus, steps=3, bf16=True)
    assert all(p.dtype == torch.float32 for p in run.model.parameters())
    assert bits(run.model) != bits(small_train(corpus, steps=3).model)


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_a_periodic_text_is_learnt_in_40_steps(tmp_path, optimizer):
    corpus = text_corpus(tmp_path, "abcdefghij" * 60)
    rates = {"muon": (0.02, 0.01), "adamw": (0.01, 0.01)}[optimizer]
    run = small_train(
        corpus,
        steps=40,
        batch_size=8,
        optimizer=optimizer,
        learning_rate=rates[0],
        adamw_learning_rate=rates[1],
    )
    assert run.log[0]["loss"] > 2 and run.log[-1]["validation"]["all"] < 0.5


def test_gradients_are_clipped_but_logged_whole(corpus):
    free, clipped = (small_train(corpus, grad_clip=c, steps=2) for c in (0.0, 1e-3))
    assert free.log[0]["gradient_norm"] == clipped.log[0]["gradient_norm"] > 1e-3
    assert bits(free.model) != bits(clipped.model)


def test_a_poisoned_weight_stops_training_at_the_next_step(corpus, tmp_path, models):
    def poison(record):
        if record["step"] == 4:
            with torch.no_grad():
                models[-1].layers[0].mlp.down_proj.weight[0, 0] = float("nan")

    with pytest.raises(TrainingDiverged, match="step 5"):
        small_train(corpus, folder=tmp_path, checkpoint_every=3, on_step=poison)
    newest = latest_checkpoint(tmp_path)
    assert newest.name == "step_000003"
    assert all(torch.isfinite(t).all() for t in load_hf(newest).state_dict().values())
    assert [r["step"] for r in log_of(tmp_path)] == [1, 2, 3, 4]
    whole = small_train(corpus, folder=tmp_path, checkpoint_every=3)
    assert [r["step"] for r in whole.log] == [1, 2, 3, 4, 5, 6]


def test_a_poisoned_weight_is_never_saved(corpus, tmp_path, models):
    def poison(record):
        if record["step"] == 4:
            models[-1].layers[1].mlp.gate.e_score_correction_bias[1] = float("inf")

    with pytest.raises(TrainingDiverged, match="bias.*step 4"):
        small_train(corpus, folder=tmp_path, checkpoint_every=2, on_step=poison)
    assert [p.name for p in sorted(tmp_path.glob("*"))] == ["log.jsonl", "step_000002"]


@pytest.mark.parametrize("steps", [1, 5])
def test_an_absurd_learning_rate_is_named_not_returned(corpus, steps):
    absurd = {"learning_rate": 1e9, "adamw_learning_rate": 1e9, "warmup_steps": 0}
    with pytest.raises(TrainingDiverged, match=r"step \d"):
        small_train(corpus, steps=steps, weight_decay=1e9, **absurd)


def test_callback_errors_reach_the_caller_and_leave_checkpoints(corpus, tmp_path):
    def fail(record):
        if record["step"] == 5:
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        small_train(corpus, folder=tmp_path, checkpoint_every=2, on_step=fail)
    assert latest_checkpoint(tmp_path).name == "step_000004"


@pytest.mark.parametrize(
    ("model_changes", "train_changes", "said"),
    [
        ({"vocab_size": 5}, {}, "vocab_size=5 .*tokenizer"),
        ({}, {"seq_len": 33}, "seq_len=33 .*max_seq_len=32"),
        ({"max_seq_len": 9000}, {"seq_len": 9000}, "seq_len=9000 needs rows of 9001"),
        ({}, {"eval_tokens": 1}, "two tokens.*eval_tokens=1"),
    ],
)
def test_what_does_not_fit_is_refused_before_training(
    corpus, tmp_path, model_changes, train_changes, said
):
    with pytest.raises(ValueError, match=said):
        small_train(corpus, model_changes, folder=tmp_path / "run", **train_changes)
    assert not (tmp_path / "run").exists()


def test_a_text_without_validation_is_refused_before_training(tmp_path):
    seen = []
    with pytest.raises(ValueError, match="validation needs two tokens, but 'text' has 1"):
        small_train(text_corpus(tmp_path, "abcdefghij"), seq_len=8, on_step=seen.append)
    assert seen == []


def test_threads_may_train(corpus):
    runs = []
    thread = threading.Thread(target=lambda: runs.append(small_train(corpus, steps=2)))
    thread.start()
    thread.join()
    assert bits(runs[0].model) == bits(small_train(corpus, steps=2).model)


def test_ctrl_c_is_heard_once_and_given_back():
    before = signal.getsignal(signal.SIGINT)
    with interrupt_flag() as interrupted:
        assert not interrupted()
        signal.raise_signal(signal.SIGINT)
        assert interrupted() and signal.getsignal(signal.SIGINT) is before
    with interrupt_flag() as interrupted:
        assert not interrupted()
    assert signal.getsignal(signal.SIGINT) is before
