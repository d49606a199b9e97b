"""Skip these tests without g++: kernels as text need it."""

import pytest

from mini_moe.checker import why_not


@pytest.fixture(autouse=True, scope="session")
def compiler():
    if why_not():
        pytest.skip(why_not())
