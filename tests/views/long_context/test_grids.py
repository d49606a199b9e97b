import numpy as np
import pytest

from mini_moe.experiments.needle import NeedleGrid
from mini_moe.views.long_context import needle_grids
from mini_moe.views.long_context.grids import beyond
from mini_moe.views.style import summary_of, table

LENGTHS, DEPTHS = (256, 512, 2048), (0.0, 1.0)


def grid(*rows, trials=4):
    return NeedleGrid(LENGTHS, DEPTHS, np.array(rows), trials, "passkey")


PLAIN = grid([1.0, 0.25, 0.0], [1.0, 0.5, 0.0])
TUNED = grid([1.0, 1.0, 0.75], [1.0, 1.0, 1.0])


def test_cells_say_how_many_trials_were_found():
    rows = table(needle_grids({"plain": PLAIN, "tuned": TUNED}))
    cells = {(row["series"], row["x"], row["y"]): row["text"] for row in rows}
    assert cells["plain", "512", "0%"] == "1/4" and cells["tuned", "2K", "0%"] == "3/4"
    assert len(cells) == 12


def test_only_lengths_beyond_training_count():
    assert beyond(PLAIN, 256) == (3, 16) and beyond(PLAIN, None) == (11, 24)
    summary = summary_of(needle_grids({"plain": PLAIN, "tuned": TUNED}, trained=256))
    assert summary.startswith("Beyond 256 tokens. plain: 3 of 16 found, 19% (7 to 43%); tuned: 15 ")


def test_no_trials_beyond_training_are_reported():
    assert "no trials" in summary_of(needle_grids({"plain": PLAIN}, trained=2048))


def test_grids_with_different_lengths_are_refused():
    other = NeedleGrid((256, 512, 4096), DEPTHS, PLAIN.retrieved, 4, "passkey")
    with pytest.raises(ValueError, match=r"grids\['b'\]"):
        needle_grids({"a": PLAIN, "b": other})
    with pytest.raises(ValueError, match="at least one"):
        needle_grids({})
