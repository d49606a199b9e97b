"""Execute the notebooks and store their outputs: text as is, figures as static pictures.

    python -m tests.notebooks.store_outputs [NAME ...]      # all of them, or e.g. 03_experts

Each plotly figure and each FigureWidget becomes a PNG of at most 60 KB instead of its interactive
payload; the contents of a widget container become pictures, HTML and text, in order. Progress
bars and all widget state are removed. A notebook is replaced atomically, and only if every cell
ran.
"""

import inspect
import json
import os
import queue
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

from tests.browser.chromium import MISSING, find_chromium
from tests.notebooks.static_outputs import WIDGET, drawing, make_static, widget_parts

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"

MAX_NOTEBOOK_BYTES = 1_000_000
CELL_SECONDS = 600
FAILURES = (CellExecutionError, CellTimeoutError, DeadKernelError, ValueError)


def main(names: list[str]) -> int:
    """Store the named notebooks, or all of them; return 1 if any failed."""
    chromium = find_chromium()
    if chromium is None:
        print(f"{MISSING}; the figures cannot be drawn, so nothing is stored", file=sys.stderr)
        return 1
    paths = [NOTEBOOKS / f"{Path(name).stem}.ipynb" for name in names]
    paths = paths or sorted(NOTEBOOKS.glob("*.ipynb"))
    if missing := [str(path) for path in paths if not path.is_file()]:
        print(f"no such notebook: {', '.join(missing)}", file=sys.stderr)
        return 1
    with drawing(chromium):
        stored = [store(path) for path in paths]
    return 0 if all(stored) else 1


def store(path: Path) -> bool:
    """Execute one notebook and replace it; on failure, name the cell and leave the file alone."""
    started = time.perf_counter()
    notebook = nbformat.read(path, as_version=4)
    try:
        parts = execute(notebook, path.parent)
        make_static(notebook, parts)
        size = write(notebook, path)
    except FAILURES as error:
        print(f"{path.name}: {error}\n{path.name} was left as it was", file=sys.stderr)
        return False
    seconds = time.perf_counter() - started
    print(f"{path.name}: {len(notebook.cells)} cells, {size / 1000:.0f} KB, {seconds:.0f} s")
    return True


def execute(notebook: NotebookNode, folder: Path) -> dict[str, list[dict]]:
    """Run every cell in a fresh kernel; return what each displayed widget shows at the end."""
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=CELL_SECONDS,
        record_timing=False,
        resources={"metadata": {"path": str(folder)}},
    )
    client.reset_execution_trackers()
    with client.setup_kernel():
        poll_in_slices(client.kc.shell_channel)
        for index, cell in enumerate(notebook.cells):
            run_cell(client, cell, index)
        return ask_kernel(client, displayed_widgets(notebook))


def poll_in_slices(channel) -> None:
    """Poll for a reply every second.

    An Output widget makes nbclient send on the channel it is waiting on; occasionally that
    consumes the event of a reply that just arrived, and one long wait would then time out.
    """
    wait = channel.get_msg

    async def get_msg(timeout: float) -> dict:
        deadline = time.monotonic() + timeout
        while True:
            try:
                return await wait(timeout=min(1.0, timeout))
            except queue.Empty:
                if time.monotonic() > deadline:
                    raise

    channel.get_msg = get_msg


def run_cell(client: NotebookClient, cell: NotebookNode, index: int) -> None:
    """Run one cell; errors name the cell."""
    try:
        client.execute_cell(cell, index)
    except CellExecutionError as error:
        raise ValueError(f"cell {index} (id {cell.id}) failed:\n{error}") from error
    except CellTimeoutError as error:
        raise ValueError(f"cell {index} (id {cell.id}) ran over {CELL_SECONDS} s") from error


def displayed_widgets(notebook: NotebookNode) -> list[str]:
    """Return the model ids of all widgets displayed by any cell."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    views = [output.data[WIDGET] for output in outputs if WIDGET in output.get("data", {})]
    return [view["model_id"] for view in views]


def ask_kernel(client: NotebookClient, model_ids: list[str]) -> dict[str, list[dict]]:
    """Run `widget_parts` in the kernel and return its result."""
    if not model_ids:
        return {}
    source = inspect.getsource(widget_parts)
    question = f"import json\n{source}\nprint(json.dumps(widget_parts({model_ids!r})))"
    client.nb.cells.append(new_code_cell(question))
    answer = client.execute_cell(client.nb.cells[-1], len(client.nb.cells) - 1)
    del client.nb.cells[-1]
    streams = [output for output in answer.outputs if output.get("name") == "stdout"]
    return json.loads("".join(output.text for output in streams))


def write(notebook: NotebookNode, path: Path) -> int:
    """Replace the file atomically; return its size in bytes."""
    text = nbformat.writes(notebook, version=4) + "\n"
    size = len(text.encode())
    if size > MAX_NOTEBOOK_BYTES:
        raise ValueError(f"it would take {size} bytes; the limit is {MAX_NOTEBOOK_BYTES}")
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(temporary, path.stat().st_mode)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    return size


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
