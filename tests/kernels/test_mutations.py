"""Mutation tests of the kernels: the checker notices if any one barrier or wait is removed."""

import re

import pytest
import torch

from mini_moe.checker import KERNELS, CheckerError, build
from tests.kernels.test_grouped_swiglu import assert_swiglu
from tests.kernels.test_sort_rows import assert_same_order, distinct

SOURCE = KERNELS / "sort_rows.cu"
BARRIERS = [found.start() for found in re.finditer(r"__sync\w+\(\);", SOURCE.read_text())]


def without_barrier(start):
    text = SOURCE.read_text()
    return text[:start] + text[start:].replace(text[start:].split(";")[0] + ";", "", 1)


@pytest.mark.parametrize("number", range(len(BARRIERS)))
def test_removing_any_barrier_of_the_sort_is_reported(build_folder, number):
    mutant = build_folder / f"sort_rows_{number}.cu"
    mutant.write_text(without_barrier(BARRIERS[number]))
    kernels = build([mutant], build_folder, f"mutant{number}")
    with pytest.raises(CheckerError) as error:
        assert_same_order(kernels, distinct(700, 4, 40, skew=1.0), 40)
        assert_same_order(kernels, torch.zeros(600, 1, dtype=torch.long), 1)
    assert error.value.reports[0].kind in ("race", "unwritten")  # later reports are consequences
    kernels.release()


PIPELINE = {  # mutations of the copies and products in tensor_core_tiles.cuh
    "no wait for the next step": ("  wait_for_async_copies<kAhead - 1>();", ""),
    "a wait for too few copies": ("copies<kAhead - 1>", "copies<kAhead>"),
    "no barrier between steps": ("    __syncthreads();\n  };", "  };"),
    "a copy into what is read": ("fetch(step + kAhead);", "fetch(step + kAhead + 1);"),
    "no wait before the result": ("  wait_for_async_copies<0>();", ""),
    "no barrier before the result": ("  __syncthreads();  // the tiles' memory is free", ""),
    "no order between a warp's stores": ("  __syncwarp();\n#pragma", "#pragma"),
    "no order between its results": ("  __syncwarp();  // before", "  // before"),
    "copies that are never committed": ("    commit_async_copies();", ""),
}  # fmt: skip
PLAIN = {
    "no barrier before the products": ("    __syncthreads();\n#pragma", "#pragma"),
    "no barrier after the products": ("    __syncthreads();  // no thread", "    // no thread"),
}
MUTANTS = [
    (header, name, *change)
    for header, changes in (("tensor_core_tiles.cuh", PIPELINE), ("plain_tiles.cuh", PLAIN))
    for name, change in changes.items()
]


@pytest.mark.parametrize(
    ("header", "name", "right", "wrong"), MUTANTS, ids=[row[1] for row in MUTANTS]
)
def test_every_error_in_the_grouped_products_is_found(build_folder, header, name, right, wrong):
    text = (KERNELS / header).read_text()
    assert text.count(right) == 1
    folder = build_folder / name.replace(" ", "_")
    folder.mkdir()
    (folder / header).write_text(text.replace(right, wrong))
    for other in {"tensor_core_tiles.cuh", "plain_tiles.cuh", "grouped_swiglu.cu"} - {header}:
        (folder / other).write_text((KERNELS / other).read_text())
    kernels = build([folder / "grouped_swiglu.cu"], build_folder, f"mutant_{folder.name}")
    with pytest.raises(CheckerError) as error:
        if header == "plain_tiles.cuh":
            assert_swiglu(kernels, [20], 24, 8, dtype=torch.float32)
        else:  # after 10 steps, copies are still pending into the memory used for the result
            assert_swiglu(kernels, [130], 320, 72, configuration=2)
    assert error.value.reports[0].kind in ("race", "unwritten")
    kernels.release()
