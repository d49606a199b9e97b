"""Every .cu compiles for both architectures, without spilling registers; needs nvcc, not a GPU."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from mini_moe.checker import KERNELS

SOURCES = [*sorted(KERNELS.rglob("*.cu")), Path(__file__).parent / "planted" / "clean.cu"]
ARCHITECTURES = ("80", "90a")


@pytest.mark.skipif(not shutil.which("nvcc"), reason="needs nvcc")
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_source_compiles_for_both_architectures_without_spills(source, tmp_path):
    targets = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in ARCHITECTURES]
    command = ["nvcc", "-std=c++17", "-c", str(source), "-o", str(tmp_path / "out.o")]
    command += [f"-I{KERNELS}", "-Xptxas", "-v", "-Werror", "all-warnings", "--threads=2", *targets]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    stores = re.findall(r"(\d+) bytes spill stores", done.stderr)
    assert stores and set(stores) == {"0"}, done.stderr
