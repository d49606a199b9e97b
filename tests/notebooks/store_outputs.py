"""Executes the notebooks and stores their outputs: text as it is, figures as static pictures.

    python -m tests.notebooks.store_outputs [NAME ...]      # all without a NAME; 03_experts for one

Each plotly figure and each FigureWidget becomes a PNG of at most 60 KB in place of its
interactive payload; what a container of widgets shows becomes pictures, HTML and text in its
order. Progress bars vanish, and so does all widget state. A notebook is replaced in one step,
and only if every cell ran.
"""

import base64
import inspect
import json
import os
import sys
import tempfile
import time
from html import escape
from pathlib import Path

import kaleido
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_output

from tests.browser.chromium import FLAGS, MISSING, find_chromium

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
PLOTLY = "application/vnd.plotly.v1+json"
WIDGET = "application/vnd.jupyter.widget-view+json"
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}

MAX_PICTURE_BYTES = 60_000
MAX_NOTEBOOK_BYTES = 1_000_000
MAX_OUTPUT_BYTES = 100_000  # of anything but a picture
CELL_SECONDS = 600
SCALES = (1.5, 1.25, 1.0, 0.85, 0.7, 0.6, 0.5)  # pixels per unit of the figure, best first
FAILURES = (CellExecutionError, CellTimeoutError, DeadKernelError, ValueError)


def widget_parts(model_ids):
    """Return, for each displayed widget, what it shows: a list of {kind, content} in its order.

    Runs inside the notebook's kernel after the last cell, so it sees what a reader would see and
    must import all it needs.
    """
    import ipywidgets
    import plotly.graph_objects as go

    known = ipywidgets.widgets.widget._instances
    progress = (ipywidgets.IntProgress, ipywidgets.FloatProgress)

    def parts(widget):
        if widget is None or isinstance(widget, progress) or hidden(widget):
            return []
        if isinstance(widget, go.FigureWidget):
            return [{"kind": "figure", "content": widget.to_json()}]
        if isinstance(widget, ipywidgets.Output):
            return [part for output in widget.outputs for part in printed(output)]
        if isinstance(widget, (ipywidgets.Tab, ipywidgets.Accordion, ipywidgets.Stack)):
            chosen = widget.selected_index
            return parts(widget.children[chosen]) if chosen is not None else []
        if isinstance(widget, ipywidgets.Box):
            if any(isinstance(child, progress) for child in widget.children):
                return []
            return [part for child in widget.children for part in parts(child)]
        if isinstance(widget, (ipywidgets.HTML, ipywidgets.HTMLMath)):
            return [{"kind": "html", "content": widget.value}]
        return control(widget)

    def hidden(widget):
        layout = getattr(widget, "layout", None)  # a FigureWidget's is the figure's, not the box's
        return isinstance(layout, ipywidgets.Layout) and layout.display == "none"

    def printed(output):
        view = output.get("data", {}).get("application/vnd.jupyter.widget-view+json")
        if view:
            return parts(known.get(view["model_id"]))
        return [{"kind": "output", "content": dict(output)}]

    def control(widget):
        label = getattr(widget, "description", "")
        if isinstance(widget, (ipywidgets.Button, ipywidgets.ToggleButton)):
            return [{"kind": "control", "content": f"[{label}]"}]
        shown = getattr(widget, "label", None) or getattr(widget, "value", None)
        text = ": ".join(str(part) for part in (label, shown) if part not in ("", None))
        return [{"kind": "control", "content": text}] if text else []

    return {key: parts(known.get(key)) for key in model_ids}


def main(names: list[str]) -> int:
    """Store the named notebooks, or all; return 1 if any failed."""
    chromium = find_chromium()
    if chromium is None:
        print(f"{MISSING}; the figures cannot be drawn, so nothing is stored", file=sys.stderr)
        return 1
    paths = [NOTEBOOKS / f"{Path(name).stem}.ipynb" for name in names]
    paths = paths or sorted(NOTEBOOKS.glob("*.ipynb"))
    if missing := [str(path) for path in paths if not path.is_file()]:
        print(f"no such notebook: {', '.join(missing)}", file=sys.stderr)
        return 1
    start_drawing(chromium)
    try:
        stored = [store(path) for path in paths]
    finally:
        kaleido.stop_sync_server()
    return 0 if all(stored) else 1


def start_drawing(chromium: str) -> None:
    """Start the browser that turns figures into pictures (it needs no network)."""
    # Debian's starter reads these; kaleido itself adds --no-sandbox and --disable-gpu.
    os.environ.setdefault("CHROMIUM_FLAGS", " ".join(FLAGS))
    kaleido.start_sync_server(path=chromium, mathjax=False)


def store(path: Path) -> bool:
    """Execute one notebook and replace it; on a failure say which cell and leave it as it was."""
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
        for index, cell in enumerate(notebook.cells):
            run_cell(client, cell, index)
        return ask_kernel(client, displayed_widgets(notebook))


def run_cell(client: NotebookClient, cell: NotebookNode, index: int) -> None:
    """Run one cell; a failure names it."""
    try:
        client.execute_cell(cell, index)
    except CellExecutionError as error:
        raise ValueError(f"cell {index} (id {cell.id}) failed:\n{error}") from error
    except CellTimeoutError as error:
        raise ValueError(f"cell {index} (id {cell.id}) ran over {CELL_SECONDS} s") from error


def displayed_widgets(notebook: NotebookNode) -> list[str]:
    """The model ids of all widgets that some cell shows."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    views = [output.data[WIDGET] for output in outputs if WIDGET in output.get("data", {})]
    return [view["model_id"] for view in views]


def ask_kernel(client: NotebookClient, model_ids: list[str]) -> dict[str, list[dict]]:
    """Run `widget_parts` in the kernel."""
    if not model_ids:
        return {}
    source = inspect.getsource(widget_parts)
    question = f"import json\n{source}\nprint(json.dumps(widget_parts({model_ids!r})))"
    client.nb.cells.append(new_code_cell(question))
    answer = client.execute_cell(client.nb.cells[-1], len(client.nb.cells) - 1)
    del client.nb.cells[-1]
    streams = [output for output in answer.outputs if output.get("name") == "stdout"]
    return json.loads("".join(output.text for output in streams))


def make_static(notebook: NotebookNode, parts: dict[str, list[dict]]) -> None:
    """Replace all that is interactive, and all that differs from one run to the next."""
    for index, cell in enumerate(notebook.cells):
        cell.metadata.pop("execution", None)
        if "outputs" in cell:
            new = [new for old in cell.outputs for new in static_outputs(old, parts)]
            cell.outputs = join_streams(new)
            check_size(index, cell)
    notebook.metadata = NotebookNode(kernelspec=KERNEL, language_info={"name": "python"})


def static_outputs(output: NotebookNode, parts: dict[str, list[dict]]) -> list[NotebookNode]:
    """What is stored in place of one output; most are stored as they are."""
    data = output.get("data", {})
    if PLOTLY in data:
        return [with_data(output, picture(data[PLOTLY]))]
    if WIDGET in data:
        shown = [part_outputs(part, parts) for part in parts[data[WIDGET]["model_id"]]]
        return [with_data(output, new.data) if "data" in new else new for new in sum(shown, [])]
    return [output]


def part_outputs(part: dict, parts: dict[str, list[dict]]) -> list[NotebookNode]:
    """One piece of a widget as outputs."""
    kind, content = part["kind"], part["content"]
    if kind == "output":
        return static_outputs(nbformat.from_dict(content), parts)
    if kind == "figure":
        return [new_output("display_data", picture(json.loads(content)))]
    html = content if kind == "html" else f"<code>{escape(content)}</code>"
    return [new_output("display_data", {"text/html": html, "text/plain": content})]


def join_streams(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Join neighbouring pieces of the same stream: how a kernel cuts its prints is chance."""
    joined: list[NotebookNode] = []
    for output in outputs:
        last = joined[-1] if joined else {}
        if output.output_type == "stream" and last.get("name") == output.name:
            last["text"] += output.text
        else:
            joined.append(output)
    return joined


def with_data(output: NotebookNode, data: dict) -> NotebookNode:
    """The same output showing other data."""
    extra = {key: output[key] for key in ("execution_count",) if key in output}
    return new_output(output.output_type, data, **extra)


def picture(figure: dict) -> dict[str, str]:
    """A figure as a PNG of at most 60 KB, with its title as text."""
    layout = figure.get("layout", {})
    size = {"width": layout.get("width") or 800, "height": layout.get("height") or 450}
    drawing = {"data": figure["data"], "layout": layout}
    for scale in SCALES:
        png = kaleido.calc_fig_sync(drawing, opts={"format": "png", "scale": scale} | size)
        if len(png) <= MAX_PICTURE_BYTES:
            break
    else:
        raise ValueError(f"figure '{caption(layout)}' takes {len(png)} bytes even at half size")
    return {"image/png": base64.b64encode(png).decode(), "text/plain": caption(layout)}


def caption(layout: dict) -> str:
    """The figure's one-sentence summary if its layout carries one, else its title."""
    meta, title = layout.get("meta"), layout.get("title")
    if isinstance(meta, dict) and meta.get("summary"):
        return meta["summary"]
    text = title.get("text") if isinstance(title, dict) else title
    return text or "figure"


def check_size(index: int, cell: NotebookNode) -> None:
    """Raises: ValueError when an output would bloat the notebook."""
    for output in cell.outputs:
        for kind, content in output.get("data", {}).items():
            if kind != "image/png" and len(json.dumps(content)) > MAX_OUTPUT_BYTES:
                raise ValueError(f"cell {index} (id {cell.id}): {kind} of {len(content)} bytes")


def write(notebook: NotebookNode, path: Path) -> int:
    """Replace the file in one step; return its size in bytes."""
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
