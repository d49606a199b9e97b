"""Record the runs of notebook 12's kernels, for machines without g++.

    python -m tests.checker.record      # after a change to the notebook, a kernel or the checker

Needs g++; writes mini_moe/checker/recordings.json.
"""

import json
import sys
from pathlib import Path

import nbformat
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.io import capture_output

from mini_moe.checker.compiling import require_compiler
from mini_moe.checker.recordings import FILE, collecting

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "12_kernels.ipynb"


def main() -> int:
    """Write the file; an error in a cell is raised."""
    require_compiler()
    with collecting() as found:
        outputs = run_cells(NOTEBOOK)
    FILE.write_text(text_of(found), encoding="utf-8")
    print(f"{FILE.name}: {len(found)} runs of {len(outputs)} cells, {FILE.stat().st_size:,} bytes")
    return 0


def text_of(found: dict) -> str:
    """Format the recordings as JSON, one line per run."""
    lines = [f"{json.dumps(key)}: {json.dumps(run, separators=(',', ':'))}"
             for key, run in sorted(found.items())]  # fmt: skip
    return "{\n" + ",\n".join(lines) + "\n}\n"


def run_cells(path: Path) -> list[str]:
    """Run the code cells of a notebook in this process; return what each one printed.

    Raises: RuntimeError with the cell that failed.
    """
    shell = InteractiveShell()
    printed = []
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type != "code":
            continue
        with capture_output() as captured:
            result = shell.run_cell(cell.source)
        if not result.success:
            error = result.error_in_exec or result.error_before_exec
            raise RuntimeError(f"{error!r} in the cell:\n{cell.source}")
        printed.append(captured.stdout)
    return printed


if __name__ == "__main__":
    sys.exit(main())
