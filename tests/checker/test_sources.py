"""Kernels of notebook 12: the stubs match the registered exercises, and nvcc accepts them all."""

import ast
import shutil
import subprocess

import nbformat
import pytest

from mini_moe.checker import KERNELS
from mini_moe.teaching.exercise import EXERCISES, load_all
from mini_moe.teaching.part4_speed.kernel_threads import TOP_K_USER
from mini_moe.teaching.part4_speed.kernels import SWIZZLE_USER
from tests.checker.record import NOTEBOOK

load_all()
USERS = {"swizzled": SWIZZLE_USER, "best_expert": TOP_K_USER}
ANSWERS = {
    name: exercise.answer + USERS.get(name, "")
    for name, exercise in EXERCISES.items()
    if exercise.kind == "kernel"
}


def cells():
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    return [cell.source for cell in cells if cell.cell_type == "code"]


def texts(cell):
    """Return the CUDA sources in a cell."""
    constants = (node.value for node in ast.walk(ast.parse(cell)) if isinstance(node, ast.Constant))
    return [text for text in constants if isinstance(text, str) and "__\n" not in text
            and ("__global__" in text or "__device__" in text) and "{" in text]  # fmt: skip


SOURCES = ANSWERS | {f"cell {n}": text for n, cell in enumerate(cells()) for text in texts(cell)}


@pytest.mark.parametrize("name", sorted(ANSWERS))
def test_the_lessons_cell_holds_what_the_exercise_starts_from(name):
    (cell,) = (cell for cell in cells() if f"check.{name}(" in cell)
    assert texts(cell) == [EXERCISES[name].given]


@pytest.mark.skipif(not shutil.which("nvcc"), reason="needs nvcc")
@pytest.mark.parametrize("name", SOURCES)
def test_nvcc_takes_the_same_source(name, tmp_path):
    path = tmp_path / "kernel.cu"
    path.write_text(f'#include "tensor_core.cuh"\n{SOURCES[name]}')
    command = ["nvcc", "-std=c++17", "-gencode=arch=compute_80,code=sm_80", f"-I{KERNELS}"]
    done = subprocess.run(
        [*command, "-c", str(path), "-o", str(tmp_path / "out.o")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
