"""The checker on our own kernels: without any one of their barriers, the tests would fail."""

import re

import pytest
import torch

from mini_moe.checker import KERNELS, CheckerError, build
from tests.kernels.test_sort_rows import assert_same_order, distinct

SOURCE = KERNELS / "sort_rows.cu"
BARRIERS = [found.start() for found in re.finditer(r"__sync\w+\(\);", SOURCE.read_text())]


def without_barrier(start):
    text = SOURCE.read_text()
    return text[:start] + text[start:].replace(text[start:].split(";")[0] + ";", "", 1)


@pytest.mark.parametrize("number", range(len(BARRIERS)))
def test_every_barrier_of_the_sort_is_missed_when_it_is_gone(build_folder, number):
    mutant = build_folder / f"sort_rows_{number}.cu"
    mutant.write_text(without_barrier(BARRIERS[number]))
    kernels = build([mutant], build_folder, f"mutant{number}")
    with pytest.raises(CheckerError) as error:
        assert_same_order(kernels, distinct(700, 4, 40, skew=1.0), 40)
        assert_same_order(kernels, torch.zeros(600, 1, dtype=torch.long), 1)
    assert error.value.reports[0].kind in ("race", "unwritten")  # what follows is its consequence
    kernels.release()
