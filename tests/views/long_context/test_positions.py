import pytest
import torch

from mini_moe.views.long_context import loss_by_position
from mini_moe.views.long_context.positions import position_bins
from mini_moe.views.style import summary_of, table

LOSSES = torch.cat((torch.full((256,), 2.0), torch.full((256,), 5.0)))


def test_every_position_from_the_eighth_counts_once():
    middles, means = position_bins(torch.ones(300))
    assert middles == sorted(middles) and middles[0] >= 8 and middles[-1] < 300
    assert means == pytest.approx([1.0] * len(means))


def test_the_summary_compares_before_and_after_the_training_length():
    figure = loss_by_position({"plain": LOSSES, "flat": torch.ones(512)}, 256)
    assert summary_of(figure).endswith("plain 2.00 and 5.00; flat 1.00 and 1.00.")
    lines = {row["series"] for row in table(figure)}
    assert lines == {"plain", "flat"}


def test_texts_that_are_too_short_are_refused():
    with pytest.raises(ValueError, match="16 positions"):
        loss_by_position({"plain": torch.ones(9)}, 4)
