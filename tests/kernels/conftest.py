"""Compile the kernels once per session, with g++, for the CPU and its checker."""

from pathlib import Path

import pytest

from mini_moe.checker import KERNELS, build, why_not


@pytest.fixture(scope="session")
def build_folder(tmp_path_factory):
    if why_not():
        pytest.skip(why_not())
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
