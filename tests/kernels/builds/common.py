"""Shared by the builds for other machines and with sanitizers: kernels/build.py as a module."""

import importlib.util
from types import ModuleType

from mini_moe.ops import compiled


def load_build() -> ModuleType:
    """Load kernels/build.py as a module; kernels/ is not a package."""
    spec = importlib.util.spec_from_file_location("kernels_build", compiled.SOURCES / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
