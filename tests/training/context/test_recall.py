"""Answers are learnt alongside text; a seed is reproducible; bad phases say what is wrong."""

import dataclasses

import pytest
import torch

from mini_moe import Transformer
from mini_moe.training import TrainingDiverged
from mini_moe.training.context import Phase, train_recall
from tests.helpers import small_config
from tests.training.context.short_run import CONFIG, PHASES, fresh


def test_the_log_tells_every_step_and_ends_with_the_loss_on_unseen_text(corpus):
    heard = []
    log = train_recall(fresh(corpus), PHASES, CONFIG, corpus, heard.append)
    assert heard == log
    assert [record["step"] for record in log] == [1, 2, 3, 4, 5]
    assert [record["seq_len"] for record in log] == [80, 80, 80, 128, 128]
    assert set(log[-1]["validation"]) == {*corpus.domain_names, "all"}


def test_the_same_seed_trains_the_same_model_and_leaves_random_numbers_alone(corpus):
    models = [fresh(corpus) for _ in range(3)]
    before = torch.get_rng_state()
    logs = [
        train_recall(model, PHASES[:1], dataclasses.replace(CONFIG, seed=seed), corpus)
        for model, seed in zip(models, (0, 0, 1), strict=True)
    ]
    assert torch.equal(torch.get_rng_state(), before)
    assert logs[0] == logs[1] != logs[2]
    first, second, third = (model.state_dict() for model in models)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], third[name]) for name in first)


def test_answers_and_texts_are_both_learnt(corpus):
    phase = Phase(steps=60, seq_len=80, texts=4, rows=8)
    log = train_recall(fresh(corpus), [phase], CONFIG, corpus)
    for name in ("text_loss", "answer_loss"):
        losses = [record[name] for record in log]
        assert sum(losses[-10:]) < 0.9 * sum(losses[:10]), name


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"steps": 0}, "steps=0"),
        ({"rows": True}, "rows=True"),
        ({"seq_len": -1}, "seq_len=-1"),
    ],
)
def test_an_impossible_phase_is_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        dataclasses.replace(PHASES[0], **changes)


def test_phases_that_do_not_fit_are_refused(corpus):
    with pytest.raises(ValueError, match="phases: at least one"):
        train_recall(fresh(corpus), [], CONFIG, corpus)
    longer = dataclasses.replace(PHASES[0], seq_len=256)
    with pytest.raises(ValueError, match="seq_len=256 is more than max_seq_len=128"):
        train_recall(fresh(corpus), [longer], CONFIG, corpus)
    short = dataclasses.replace(PHASES[0], seq_len=40)
    with pytest.raises(ValueError, match=r"length=41 must be at least \d+"):
        train_recall(fresh(corpus), [short], CONFIG, corpus)
    small = dataclasses.replace(
        corpus, train=dataclasses.replace(corpus.train, tokens=corpus.train.tokens[:100])
    )
    with pytest.raises(ValueError, match="has 100"):
        train_recall(fresh(corpus), PHASES, CONFIG, small)
    with pytest.raises(ValueError, match="vocab_size=61 is smaller than the tokenizer's 4096"):
        train_recall(Transformer(small_config(max_seq_len=128)), PHASES, CONFIG, corpus)


def test_a_loss_that_is_not_finite_stops_the_run(corpus):
    model = fresh(corpus)
    with torch.no_grad():
        model.norm.weight.fill_(float("nan"))
    with pytest.raises(TrainingDiverged, match="at step 1"):
        train_recall(model, PHASES, CONFIG, corpus)
