from dataclasses import replace

import pytest
import torch

from mini_moe import presets
from mini_moe.model.rope import yarn_frequencies
from mini_moe.views.long_context import StretchLab, stretch_figure
from mini_moe.views.long_context.stretch import METHODS, stretch
from mini_moe.views.style import summary_of, table

PLAIN, INTERPOLATED, NTK, YARN = METHODS


@pytest.fixture
def config():
    return replace(presets.tiny(), max_seq_len=256)


def test_interpolation_divides_every_pair_and_yarn_only_slow_ones(config):
    made = stretch(config, 256, 8)
    assert made.divided[INTERPOLATED] == pytest.approx([8.0] * 8)
    assert made.divided[YARN][0] == pytest.approx(1) and made.divided[YARN][4:] == [8.0] * 4
    assert made.divided[PLAIN] == [1.0] * 8


def test_a_larger_theta_keeps_the_first_pair_and_divides_the_last(config):
    divided = stretch(config, 256, 8).divided[NTK]
    assert divided[0] == pytest.approx(1) and divided[-1] == pytest.approx(8, rel=1e-4)
    assert divided == sorted(divided)


def test_yarn_matches_the_models_own():
    v3 = presets.deepseek_v3()
    made = stretch(v3, 4096, 40)
    assert torch.equal(made.frequencies[YARN], yarn_frequencies(v3))
    assert made.unseen(PLAIN) == 9 and made.unseen(YARN) == 0


def test_the_figure_has_both_panels_and_says_what_is_new(config):
    figure = stretch_figure(config, 256, 16)
    rows = [row for row in table(figure) if row["series"] == YARN]
    assert len(rows) == 16 and rows[4]["y"] == pytest.approx(16)
    assert summary_of(figure).startswith("Factor 16, 4,096 tokens. Pairs that reach new angles: 4 ")


def test_the_slider_redraws(config):
    lab = StretchLab(config, 256, factor=8)
    lab.slider.value = 40
    assert repr(lab).startswith("Factor 40, 10,240 tokens.") and lab.error.value == ""
    assert list(lab.figure.data[1].y) == pytest.approx([40.0] * 8)
    lab.slider.value = 1
    assert repr(lab) == "Factor 1, 256 tokens: nothing changes."


def test_a_factor_below_one_is_refused(config):
    with pytest.raises(ValueError, match=r"factor=0\.5"):
        stretch(config, 256, 0.5)
