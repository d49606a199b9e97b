"""Imports inside mini_moe go one way, and importing it is cheap and silent."""

import ast
import os
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "mini_moe"
# Each package may import itself and those on earlier lines.
ORDER = (
    {"arguments"},
    {"console", "files", "folders", "config", "device", "random_numbers"},
    {"presets", "ops"},
    {"model"},
    {"text"},
    {"hf_files"},
    {"hf_config", "hf_layout"},
    {"huggingface"},
    {"routing"},
    {"training"},
    {"inference"},
    {"experiments"},
    {"profiling"},
    {"checker"},
    {"views"},
    {"teaching"},
)
RANK = {room: rank for rank, rooms in enumerate(ORDER) for room in rooms}


def room_of(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported_rooms(path):
    """Return the packages of mini_moe that a file imports, anywhere in it."""
    modules = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            deeper = [f"{node.module}.{alias.name}" for alias in node.names]
            modules += deeper if node.module == "mini_moe" else [node.module]
    return {name.split(".")[1] for name in modules if name.startswith("mini_moe.")}


def sources():
    return [path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py"]


def test_every_room_has_a_place_in_the_order():
    assert {room_of(path) for path in sources()} <= set(RANK)


def test_imports_point_one_way():
    for path in sources():
        room = room_of(path)
        for other in imported_rooms(path) - {room}:
            assert other in RANK, f"{path} imports {other}, which has no place in the order"
            assert RANK[other] < RANK[room], f"{path} imports {other}, which comes after {room}"


def test_only_ops_knows_what_is_compiled():
    """No other package names the compiled library, except for the one that measures it."""
    for path in sources():
        if room_of(path) in ("ops", "profiling"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            named = isinstance(node, ast.Attribute) and ast.unparse(node) == "torch.ops.mini_moe"
            named |= isinstance(node, ast.Constant) and str(node.value).startswith("mini_moe::")
            assert not named, f"{path}:{node.lineno} names the compiled library"


def test_init_files_only_name_what_they_offer():
    for path in PACKAGE.rglob("__init__.py"):
        assert len(path.read_text("utf-8").splitlines()) <= 30, path


def test_kernels_does_not_shadow_the_package_of_that_name():
    assert not (PACKAGE.parent / "kernels" / "__init__.py").exists()


def test_importing_is_silent_and_draws_nothing():
    heavy = {"plotly", "ipywidgets", "transformers", "IPython", "matplotlib"}
    program = f"import mini_moe, sys; sys.exit(str(sorted({heavy} & set(sys.modules))))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("", "[]\n")


WITHOUT_POSIX = """
import importlib, pkgutil, sys
import filelock, ipywidgets, numpy, plotly.graph_objects, psutil, safetensors.torch, tokenizers
import torch, torch.distributed, tqdm.auto
from tests.windows import hide_posix
hide_posix()
import mini_moe
names = [found.name for found in pkgutil.walk_packages(mini_moe.__path__, "mini_moe.")]
for name in names:
    if not name.endswith("._C"):
        importlib.import_module(name)
"""


def test_every_module_can_be_imported_without_posix():
    root, environment = PACKAGE.parent, os.environ | {"MINI_MOE_KERNELS": "off"}
    command = [sys.executable, "-c", WITHOUT_POSIX]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
