"""The kernels, compiled once a session with g++ for the CPU and its checker."""

import shutil
from pathlib import Path

import pytest

from tests.kernels.checked import KERNELS, build

NEEDS_COMPILER = "needs g++: the kernels are compiled to run on the CPU under the checker"


@pytest.fixture(scope="session")
def build_folder(tmp_path_factory):
    if not shutil.which("g++"):
        pytest.skip(NEEDS_COMPILER)
    return tmp_path_factory.mktemp("kernels")


@pytest.fixture(scope="session")
def planted_library(build_folder):
    sources = sorted((Path(__file__).parent / "planted").glob("*.cu"))
    return build(sources, build_folder, "planted")


@pytest.fixture(scope="session")
def kernel_library(build_folder):
    return build(sorted(KERNELS.rglob("*.cu")), build_folder, "kernels")


@pytest.fixture
def planted(planted_library):
    yield planted_library
    planted_library.release()


@pytest.fixture
def kernels(kernel_library):
    yield kernel_library
    kernel_library.release()
