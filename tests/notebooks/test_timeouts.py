"""A cell that swallows its timeout passes with nbval alone; with the plugin, it fails."""

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
SWALLOWS = """
import time
try:
    time.sleep(60)
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize(("seconds", "outcome"), [(2, "2 failed"), (30, "2 passed")])
def test_a_swallowed_time_limit_fails_the_notebook(tmp_path, seconds, outcome):
    first = SWALLOWS if seconds == 2 else "print(1)"
    cells = [nbformat.v4.new_code_cell(source) for source in (first, "print(2)")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "lesson.ipynb")
    options = ["-n1", "--nbval-lax", "--nbval-current-env", f"--nbval-cell-timeout={seconds}"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.notebooks.timeouts", *options, tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert outcome in done.stdout, done.stdout
    assert (done.returncode == 0) == ("failed" not in outcome)
