"""A finished model gets an MTP module, and all its own weights stay the same."""

import pytest
import torch

from mini_moe import load_hf, save_hf
from mini_moe.inference import Sampling, complete, speculate
from mini_moe.training.add_mtp import add_mtp, main, with_mtp
from tests.training.small_run import small_train, small_train_config


@pytest.fixture(scope="module")
def finished(corpus):
    """A small model after a little training."""
    return small_train(corpus, steps=60).model


def test_every_other_weight_stays_bit_by_bit(corpus, finished):
    before = {name: tensor.clone() for name, tensor in finished.state_dict().items()}
    made, log = add_mtp(finished, small_train_config(steps=3), corpus)
    after = made.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert all(torch.equal(finished.state_dict()[name], before[name]) for name in before)
    assert {name.split(".")[0] for name in after.keys() - before.keys()} == {"mtp"}
    assert [record["step"] for record in log] == [1, 2, 3]
    tokens = torch.randint(1, 10, (2, 12))
    assert torch.equal(made(tokens), finished(tokens))


def test_the_module_learns_and_begins_as_the_last_block(corpus, finished):
    fresh = with_mtp(finished).mtp[0].block.state_dict()
    last = finished.layers[-1].state_dict()
    assert all(torch.equal(fresh[name], last[name]) for name in last)
    made, log = add_mtp(finished, small_train_config(steps=80), corpus)
    losses = [record["mtp_loss"] for record in log]
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])
    assert not any(torch.equal(p, fresh[n]) for n, p in made.mtp[0].block.named_parameters())


def test_the_same_seed_trains_the_same_module(corpus, finished):
    torch.manual_seed(1)
    first, _ = add_mtp(finished, small_train_config(steps=3), corpus)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    again, _ = add_mtp(finished, small_train_config(steps=3), corpus)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(map(torch.equal, first.mtp.parameters(), again.mtp.parameters()))


def test_with_its_module_the_model_writes_the_same_in_fewer_passes(corpus, finished):
    made, _ = add_mtp(finished, small_train_config(steps=120), corpus)
    sampling = Sampling(temperature=0.0)
    plain = complete(finished, ["the "], 28, sampling=sampling)[0]
    found, told = speculate(made, "the ", 28, sampling=sampling)
    assert found == plain and told.tokens_per_pass > 1


def test_the_command_saves_what_it_made(corpus, finished, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("mini_moe.training.add_mtp.load_corpus", lambda: corpus)
    save_hf(finished, tmp_path / "old", dtype=torch.bfloat16)
    arguments = ["--checkpoint", str(tmp_path / "old"), "--save", str(tmp_path / "new")]
    assert main([*arguments, "--steps", "20", "--batch_size", "2", "--seq_len", "16"]) == 0
    assert "step 20  MTP loss" in capsys.readouterr().out
    old, new = load_hf(tmp_path / "old"), load_hf(tmp_path / "new", mtp=True)
    assert new.config.n_mtp_layers == 1
    assert all(torch.equal(new.state_dict()[n], t) for n, t in old.state_dict().items())
    assert len((tmp_path / "new" / "mtp_log.jsonl").read_text().splitlines()) == 2


def test_a_checkpoint_may_be_overwritten_with_another_module(
    corpus, finished, tmp_path, monkeypatch
):
    monkeypatch.setattr("mini_moe.training.add_mtp.load_corpus", lambda: corpus)
    save_hf(finished, tmp_path, dtype=torch.bfloat16)
    before = load_hf(tmp_path).state_dict()
    arguments = ["--checkpoint", str(tmp_path), "--save", str(tmp_path), "--batch_size", "2"]
    made = []
    for steps in ("4", "2"):
        assert main([*arguments, "--seq_len", "16", "--steps", steps]) == 0
        made.append(load_hf(tmp_path, mtp=True).state_dict())
        assert all(torch.equal(made[-1][name], tensor) for name, tensor in before.items())
    assert made[0].keys() == made[1].keys()
    new = [name for name in made[0] if name.startswith("mtp.") and "proj" in name]
    assert new and not any(torch.equal(made[0][name], made[1][name]) for name in new)


@pytest.mark.parametrize(
    ("changes", "said"),
    [(["--steps", "0"], "steps=0"), (["--checkpoint", "/nowhere"], "/nowhere")]
    + [(["--seq_len", "99"], "seq_len=99 is more than max_seq_len=32")],
)
def test_the_command_says_in_one_line_what_does_not_fit(
    changes, said, corpus, finished, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("mini_moe.training.add_mtp.load_corpus", lambda: corpus)
    save_hf(finished, tmp_path / "old")
    arguments = ["--checkpoint", str(tmp_path / "old"), "--save", str(tmp_path / "new")]
    assert main([*arguments, *changes]) == 1
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_a_model_with_an_mtp_module_is_refused(finished):
    with pytest.raises(ValueError, match="no MTP module expected, got n_mtp_layers=1"):
        with_mtp(with_mtp(finished))
