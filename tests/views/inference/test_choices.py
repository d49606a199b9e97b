import pytest
import torch

from mini_moe.inference import Sampling
from mini_moe.inference.sampling import next_probabilities
from mini_moe.text import default_tokenizer
from mini_moe.views.inference import SamplingLab, sampling_bars
from mini_moe.views.inference.choices import choices
from mini_moe.views.style import summary_of, table


@pytest.fixture
def tokenizer():
    return default_tokenizer()


@pytest.fixture
def logits(tokenizer):
    numbers = torch.Generator().manual_seed(3)
    return 3 * torch.randn(tokenizer.vocab_size, generator=numbers)


def test_bars_are_what_the_engine_draws_from(logits, tokenizer):
    sampling = Sampling(temperature=0.7, top_p=0.6)
    found = choices(logits, tokenizer, sampling, count=5)
    best = logits.topk(5).indices
    assert found.drawn == pytest.approx(next_probabilities(logits, sampling)[best].tolist())
    assert found.own == pytest.approx(logits.softmax(-1)[best].tolist())


def test_cut_tokens_lose_their_bar_and_say_so(logits, tokenizer):
    figure = sampling_bars(logits, tokenizer, Sampling(temperature=1.0, min_p=1.0), count=4)
    assert list(figure.data[3].text) == ["100%", "cut", "cut", "cut"]
    assert list(figure.data[0].x)[1:] == [0, 0, 0] and min(figure.data[1].x[1:]) > 0
    assert "one token possible; the likeliest has 100%" in summary_of(figure)


def test_temperature_zero_leaves_one_token(logits, tokenizer):
    figure = sampling_bars(logits, tokenizer, Sampling(temperature=0.0))
    assert sum(row["y"] is not None for row in table(figure)) and figure.data[0].x[0] == 1


def test_what_is_not_shown_is_counted(logits, tokenizer):
    found = choices(logits, tokenizer, Sampling(temperature=2.0, top_p=1.0), count=3)
    assert found.beyond == pytest.approx(1 - sum(found.drawn))
    assert found.n_left == tokenizer.vocab_size


def test_small_shares_are_not_called_zero(logits, tokenizer):
    figure = sampling_bars(logits, tokenizer, Sampling(temperature=2.0, top_p=1.0), count=12)
    assert "0%" not in figure.data[3].text


def test_sliders_redraw_the_bars(logits, tokenizer):
    lab = SamplingLab(logits, tokenizer)
    before = list(lab.figure.data[0].x)
    lab.temperature.value = 0.3
    assert list(lab.figure.data[0].x) != before
    lab.top_p.value, lab.min_p.value = 0.5, 0.2
    assert lab.sampling == Sampling(temperature=0.3, top_p=0.5, min_p=0.2)
    assert repr(lab).startswith("Temperature 0.3, top-p 0.5, min-p 0.2")
    assert lab.error.value == ""


def test_logits_that_are_not_finite_are_refused(tokenizer):
    with pytest.raises(ValueError, match="finite"):
        sampling_bars(torch.full((tokenizer.vocab_size,), torch.nan), tokenizer, Sampling())
