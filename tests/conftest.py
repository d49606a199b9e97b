"""What every test shares: seeds, one thread, GPU tests only where there is a GPU."""

import random

import numpy
import pytest
import torch


def pytest_addoption(parser):
    parser.addoption("--tour-picture", help="store the browser's picture of the tour's view here")


def pytest_configure():
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def fixed_seeds():
    """Every test starts from the same random state."""
    random.seed(0)
    numpy.random.seed(0)
    torch.manual_seed(0)
