"""Shared by all tests: seeds, one thread, and GPU tests that run only with a GPU."""

import random
import shutil

import numpy
import pytest
import torch

from tests.helpers import without_shape_hook


def pytest_addoption(parser):
    parser.addoption("--tour-picture", help="store the browser's picture of the tour's view here")
    parser.addoption("--stage-picture", help="store the browser's picture of the stage here")


def pytest_configure():
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items):
    lacking = {}
    if not torch.cuda.is_available():
        lacking["gpu"] = "needs a CUDA device"
    if not (shutil.which("g++") or shutil.which("clang++")):
        lacking["compile"] = "needs a C++ compiler"
    for item in items:
        for mark, reason in lacking.items():
            if item.get_closest_marker(mark):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def types_as_given(request):
    """Let wrong types reach the package's own checks in tests marked `any_types`."""
    if request.node.get_closest_marker("any_types"):
        with without_shape_hook():
            yield
    else:
        yield


@pytest.fixture(autouse=True)
def fixed_seeds():
    """Every test starts from the same random state."""
    random.seed(0)
    numpy.random.seed(0)
    torch.manual_seed(0)
