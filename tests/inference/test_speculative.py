"""Proposals change how many passes a text takes, and nothing else about it."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mini_moe.inference import Decoder, LatentCache, Sampling, complete, speculate, stream
from mini_moe.inference.sampling import next_probabilities
from mini_moe.inference.sequences import make_sequences
from mini_moe.inference.speculative import Drafter, Round, Speculation, accept, write_ahead
from tests.helpers import random_tokens, small_model

GREEDY = Sampling(temperature=0.0)


def exceeds_chance(counts, expected):
    """Whether a chi-square test rejects the expected distribution for these counts at 5 sigma."""
    kept = expected > 0
    if counts[~kept].sum():
        return True
    chi_square = ((counts - expected)[kept] ** 2 / expected[kept]).sum()
    freedom = int(kept.sum()) - 1
    return chi_square > freedom + 5 * (2 * freedom) ** 0.5


@torch.no_grad()
@pytest.mark.parametrize("pieces", [[12], [5, 1, 6], [1] * 12])
@pytest.mark.parametrize("changes", [{}, {"q_lora_rank": 12}, {"yarn_factor": 4.0}])
def test_the_drafter_computes_what_the_mtp_module_does(pieces, changes):
    model = small_model(n_mtp_layers=1, yarn_original_seq_len=16, **changes)
    tokens, drafter = random_tokens(model.config, 1, 13), Drafter(Decoder(model), 1)
    drafter.cache = LatentCache(model, 1, 12, n_layers=1)
    hidden = model.hidden(tokens[:, :-1])
    expected = model.mtp_hidden(hidden, tokens[:, 1:])
    parts = zip(hidden.split(pieces, 1), tokens[:, 1:].split(pieces, 1), strict=True)
    found = torch.cat([drafter.read(*part) for part in parts], dim=1)
    assert (found - expected).abs().max() < 1e-4


@pytest.mark.parametrize("ahead", [1, 2, 4])
@pytest.mark.parametrize("changes", [{}, {"q_lora_rank": 12, "n_mtp_layers": 2}])
@pytest.mark.parametrize("penalty", [1.0, 1.4])
def test_greedy_text_is_the_same_token_for_token(ahead, changes, penalty):
    model = small_model(**{"n_mtp_layers": 1} | changes)
    sampling = Sampling(temperature=0.0, repetition_penalty=penalty)
    for prompt in ([5, 17, 40], [3], [9] * 60):
        plain = complete(model, [prompt], 40, sampling=sampling, log_probabilities=True)[0]
        found, stats = speculate(
            model, prompt, 40, ahead=ahead, sampling=sampling, log_probabilities=True
        )
        assert (found.tokens, found.ended) == (plain.tokens, plain.ended)
        assert found.log_probabilities == pytest.approx(plain.log_probabilities, abs=1e-4)
        assert sum(one.accepted + 1 for one in stats.rounds) == len(plain.tokens) - 1
        assert all(len(one.proposed) <= ahead for one in stats.rounds)


@torch.no_grad()
def test_proposals_are_those_of_the_mtp_module_over_the_whole_text():
    model, text = small_model(n_mtp_layers=1), [5, 17, 40]
    found, stats = speculate(model, text, 30, ahead=2, sampling=GREEDY)
    text = torch.tensor([text + found.tokens[:1]])
    for one in stats.rounds:
        vectors, follow = model.hidden(text[:, :-1]), text[:, 1:]
        for token in one.proposed:
            last = model.mtp_hidden(vectors, follow)[:, -1:]
            assert token == int(model.lm_head(last).argmax())
            vectors = torch.cat((vectors, last), dim=1)
            follow = torch.cat((follow, torch.tensor([[token]])), dim=1)
        kept = [*one.proposed[: one.accepted], one.added]
        text = torch.cat((text, torch.tensor([kept])), dim=1)


def test_a_drafter_that_is_always_right_saves_passes(monkeypatch):
    model = small_model(n_mtp_layers=1)
    wanted = complete(model, [[5, 6]], 25, sampling=GREEDY)[0].tokens

    def always_right(self, hidden, follow, ahead, sequence):
        done = len(sequence.tokens)
        return wanted[done : done + ahead], []

    monkeypatch.setattr(Drafter, "propose", always_right)
    found, stats = speculate(model, [5, 6], 25, ahead=3, sampling=GREEDY)
    assert found.tokens == wanted and stats.acceptance == 1.0
    assert len(stats.rounds) == 6 and stats.tokens_per_pass == 4.0


def test_a_drafter_that_is_always_wrong_costs_no_token(monkeypatch):
    model = small_model(n_mtp_layers=1)
    wanted = complete(model, [[5, 6]], 25, sampling=GREEDY)[0].tokens

    def always_wrong(self, hidden, follow, ahead, sequence):
        done = len(sequence.tokens)
        return [(token + 1) % 61 for token in wanted[done : done + ahead]], []

    monkeypatch.setattr(Drafter, "propose", always_wrong)
    found, stats = speculate(model, [5, 6], 25, ahead=3, sampling=GREEDY)
    assert found.tokens == wanted
    assert (stats.acceptance, stats.tokens_per_pass) == (0.0, 1.0)


def distributions(seed, vocab=6):
    """Draw two different distributions over a small vocabulary, one with an impossible token."""
    logits = 1.5 * torch.randn(2, vocab, generator=torch.Generator().manual_seed(seed))
    logits[seed % 2, seed % vocab] = -torch.inf
    return logits.softmax(dim=-1)


@pytest.mark.parametrize("seed", range(6))
def test_accepted_or_redrawn_tokens_follow_the_models_distribution(seed):
    p, q = distributions(seed)
    generator, n = torch.Generator().manual_seed(seed), 6000
    counts, kept = torch.zeros(6), 0
    for draft in torch.multinomial(q, n, replacement=True, generator=generator).tolist():
        accepted, added = accept([p, p], [q], [draft], generator)
        counts[draft if accepted else added] += 1
        kept += accepted
    assert not exceeds_chance(counts, n * p)
    share = torch.minimum(p, q).sum().item()  # acceptance rate predicted by theory
    assert abs(kept / n - share) < 5 * (share * (1 - share) / n) ** 0.5


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.integers(0, 1000))
def test_equal_distributions_are_always_accepted(seed):
    p, _ = distributions(seed)
    token = int(p.argmax())
    assert accept([p, p], [p], [token], torch.Generator().manual_seed(seed))[0] == 1


@torch.no_grad()
@pytest.mark.parametrize("sampling", [{"top_p": 1.0}, {"top_p": 0.9, "top_k": 2}])
def test_sampled_texts_follow_the_distribution_of_ordinary_decoding(sampling):
    vocab, length, n, prompt = 3, 4, 800, [1, 2]
    model = small_model(3, vocab_size=vocab, n_mtp_layers=1, n_layers=2, init_std=0.3)
    settings = Sampling(temperature=1.0, **sampling)
    drafter, counts = Drafter(Decoder(model), 2), torch.zeros([vocab] * length)
    stats, expected = Speculation(), torch.zeros([vocab] * length)
    sequence = make_sequences(model, [prompt], length, settings, 0, None, None, False)[0]
    for _ in range(n):
        sequence.tokens, sequence.texts, sequence.ended = [], [], ""
        for _ in write_ahead(drafter, sequence, stats):
            pass
        counts[tuple(sequence.tokens)] += 1
    for text in itertools.product(range(vocab), repeat=length):
        logits = model(torch.tensor([prompt + list(text)]))[0, len(prompt) - 1 :]
        likely = [next_probabilities(own, settings) for own in logits]
        chances = [likely[place][token] for place, token in enumerate(text)]
        expected[text] = n * torch.stack(chances).prod()
    assert expected.sum() == pytest.approx(n, rel=1e-3)
    assert 0.05 < stats.acceptance < 0.95  # both outcomes happened
    assert not exceeds_chance(counts, expected)


def test_the_same_seed_gives_the_same_text():
    model = small_model(n_mtp_layers=1)
    first = speculate(model, [3], 20, ahead=2, seed=7)
    assert speculate(model, [3], 20, ahead=2, seed=7) == first
    assert speculate(model, [3], 20, ahead=2, seed=8) != first


@pytest.mark.parametrize("limit", [0, 1, 2, 3, 500])
def test_the_token_limit_is_respected(limit):
    model = small_model(n_mtp_layers=1)
    plain = complete(model, [[5] * 40], limit, sampling=GREEDY)[0]
    assert speculate(model, [5] * 40, limit, ahead=4, sampling=GREEDY)[0] == plain


def test_a_stop_token_among_the_proposals_ends_the_text():
    model = small_model(n_mtp_layers=1)
    whole = complete(model, [[3]], 30, sampling=GREEDY)[0].tokens
    stop = whole[10]
    found, _ = speculate(model, [3], 30, ahead=3, sampling=GREEDY, stop_token=stop)
    assert found.tokens == whole[: whole.index(stop)] and found.ended == "stop token"


def test_a_stream_with_proposals_gives_the_same_tokens():
    model = small_model(n_mtp_layers=1)
    plain = [piece.token for piece in stream(model, [3], 20, sampling=GREEDY)]
    assert [piece.token for piece in stream(model, [3], 20, sampling=GREEDY, ahead=2)] == plain


def test_statistics_are_those_of_the_rounds():
    stats = Speculation([Round([1, 2], 2, 3), Round([4, 5], 0, 6), Round([7], 1, 8)])
    assert stats.acceptance == pytest.approx(3 / 5) and stats.tokens_per_pass == pytest.approx(2.0)
    assert str(Speculation().acceptance) == str(Speculation().tokens_per_pass) == "nan"


@pytest.mark.parametrize("ahead", [1, 3])
def test_a_model_without_mtp_is_refused(ahead):
    with pytest.raises(ValueError, match=f"ahead={ahead}: an MTP module expected.*n_mtp_layers=0"):
        speculate(small_model(), [3], ahead=ahead)
    with pytest.raises(ValueError, match="n_mtp_layers=0"):
        stream(small_model(), [3], ahead=ahead)


@pytest.mark.parametrize("ahead", [0, -1])
def test_fewer_than_one_proposal_is_refused(ahead):
    with pytest.raises(ValueError, match=f"ahead={ahead} must be an integer of at least 1"):
        speculate(small_model(n_mtp_layers=1), [3], ahead=ahead)
