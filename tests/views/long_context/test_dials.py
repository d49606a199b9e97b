import math

import pytest
import torch

from mini_moe.model.rope import rope_frequencies
from mini_moe.views.long_context import angle_dials
from mini_moe.views.long_context.dials import new_share, reached
from mini_moe.views.style import summary_of

FREQUENCIES = rope_frequencies(16, 10_000.0)


def drawn(figure, name):
    return [trace for trace in figure.data if trace.name == name]


def test_new_angles_are_those_beyond_the_first_turn_of_training():
    assert new_share(0.4, 0.9) == pytest.approx(0.5)
    assert new_share(0.4, 3.0) == pytest.approx(0.6)
    assert new_share(1.3, 20.0) == 0 and new_share(0.4, 0.3) == 0


def test_turns_lie_between_the_first_and_the_last_token():
    assert reached(torch.tensor([2 * math.pi]), 11)[0] == pytest.approx(10)


def test_slow_pairs_reach_new_angles_and_fast_ones_do_not():
    figure = angle_dials(FREQUENCIES, 256, 2048)
    orange = [any(x is not None for x in t.x) for t in drawn(figure, "new ones in the longer text")]
    assert orange == [False] * 4 + [True] * 4
    assert summary_of(figure).startswith("In 256 tokens 4 of 8 pairs complete a turn; in 2,048 ")


def test_divided_frequencies_reach_nothing_new():
    figure = angle_dials(FREQUENCIES, 256, 2048, now=FREQUENCIES / 8)
    assert "no pairs reach" in summary_of(figure)


def test_at_most_sixteen_pairs_are_shown():
    figure = angle_dials(rope_frequencies(64, 10_000.0), 4096, 131_072)
    assert len(drawn(figure, "angles seen in training")) == 16
    assert summary_of(figure).startswith("In 4,096 tokens 23 of 32 pairs complete a turn")


def test_lengths_and_frequencies_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="trained=512 and longer=256"):
        angle_dials(FREQUENCIES, 512, 256)
    with pytest.raises(ValueError, match="now: 8 frequencies expected, got 3"):
        angle_dials(FREQUENCIES, 256, 512, now=FREQUENCIES[:3])
