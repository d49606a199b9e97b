"""Domain × expert heatmaps show the relative load and its spread."""

import pytest
import torch

from mini_moe.views.lab import domain_heatmaps, domain_spread
from mini_moe.views.style import summary_of


def test_maps_show_the_load_relative_to_even():
    load = torch.tensor([[0.5, 0.5], [0.25, 0.75]])
    figure = domain_heatmaps({"one": load, "other": torch.full((2, 2), 0.5)}, ["code", "math"])
    assert [list(row) for row in figure.data[0].z] == [[1.0, 1.0], [0.5, 1.5]]
    assert [list(row) for row in figure.data[1].z] == [[1.0, 1.0], [1.0, 1.0]]
    assert summary_of(figure) == ("Spread of the relative load over domains: one 0.25, other 0.00.")


def test_a_map_of_other_domains_is_refused():
    with pytest.raises(ValueError, match="one map of 3 rows"):
        domain_heatmaps({"one": torch.ones(2, 4)}, ["a", "b", "c"])


def test_spread_is_zero_if_all_domains_use_the_experts_alike():
    alike = torch.tensor([0.7, 0.2, 0.1]).expand(4, 3)
    assert float(domain_spread(alike)) == pytest.approx(0, abs=1e-6)
    each_its_own = torch.eye(2)  # relative load 0 or 2
    assert float(domain_spread(each_its_own)) == 1
