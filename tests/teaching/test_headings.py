"""Notebooks and exercises agree: the names exist, and the difficulty lines match."""

import json
import re
from pathlib import Path

import pytest

from mini_moe.teaching import heading
from mini_moe.teaching.exercise import EXERCISES, load_all

load_all()
NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))

WITHOUT_EXERCISES = {"11_live_demo"}  # the instructor's stage


def cells(path, kind):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    return ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == kind]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_checks_registered_exercises_under_their_heading(path):
    code = "\n".join(cells(path, "code"))
    used = set(re.findall(r"\bcheck\.(\w+)\(", code))
    assert len(used) >= 3 or path.stem in WITHOUT_EXERCISES
    assert used <= set(EXERCISES)
    prose = "\n".join(cells(path, "markdown"))
    for name in used:
        assert heading(name) in prose, f"put heading({name!r}) above the exercise"
