"""Kernels as text need g++."""

import pytest

from mini_moe.checker import why_not


@pytest.fixture(autouse=True, scope="session")
def compiler():
    if why_not():
        pytest.skip(why_not())
