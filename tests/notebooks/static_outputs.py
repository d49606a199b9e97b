"""Turn a notebook's outputs into storable ones: figures and widgets become static pictures."""

import base64
import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape, unescape
from pathlib import Path

import kaleido
import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_output

from tests.browser.chromium import FLAGS

PLOTLY = "application/vnd.plotly.v1+json"
WIDGET = "application/vnd.jupyter.widget-view+json"
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}

MAX_PICTURE_BYTES = 60_000  # of a PNG; a third more as base64
MAX_OUTPUT_BYTES = 100_000
SCALES = (1.5, 1.25, 1.0, 0.85, 0.7, 0.6, 0.5)  # pixels per unit of the figure, best first


def widget_parts(model_ids):
    """Return, for each displayed widget, what it shows: an ordered list of {kind, content}.

    Runs inside the notebook's kernel after the last cell, so it sees what a reader would see and
    must import everything it needs.
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
        if hasattr(widget, "still"):
            return [{"kind": "html", "content": widget.still()}]
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
            return [{"kind": "html", "content": widget.value}] if widget.value else []
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


@contextmanager
def drawing(chromium: str) -> Iterator[None]:
    """Keep a browser running that turns figures into pictures, without network access."""
    with tempfile.TemporaryDirectory() as folder:
        starter = Path(folder) / "chromium"
        starter.write_text(f'#!/bin/sh\nexec "{chromium}" {" ".join(FLAGS)} "$@"\n')
        starter.chmod(0o755)
        kaleido.start_sync_server(path=str(starter), mathjax=False)
        try:
            yield
        finally:
            kaleido.stop_sync_server()


def make_static(notebook: NotebookNode, parts: dict[str, list[dict]]) -> None:
    """Replace all that is interactive, and all that differs from one run to the next.

    Raises: ValueError, naming the cell, for an output that cannot be stored.
    """
    for index, cell in enumerate(notebook.cells):
        cell.metadata.pop("execution", None)
        if "outputs" in cell:
            try:
                new = [new for old in cell.outputs for new in static_outputs(old, parts)]
                cell.outputs = join_streams(new)
                check_size(cell.outputs)
            except ValueError as error:
                raise ValueError(f"cell {index} (id {cell.id}): {error}") from error
    notebook.metadata = NotebookNode(kernelspec=KERNEL, language_info={"name": "python"})


def static_outputs(output: NotebookNode, parts: dict[str, list[dict]]) -> list[NotebookNode]:
    """Return what to store for one output; most outputs are stored unchanged."""
    data = output.get("data", {})
    if PLOTLY in data:
        return [picture(data[PLOTLY])]
    if WIDGET in data:
        shown = parts[data[WIDGET]["model_id"]]
        return [new for part in shown for new in part_outputs(part, parts)]
    return [output]


def part_outputs(part: dict, parts: dict[str, list[dict]]) -> list[NotebookNode]:
    """Return one part of a widget as outputs."""
    kind, content = part["kind"], part["content"]
    if kind == "output":
        return static_outputs(nbformat.from_dict(content), parts)
    if kind == "figure":
        return [picture(json.loads(content))]
    html = content if kind == "html" else f"<code>{escape(content)}</code>"
    return [new_output("display_data", {"text/html": html, "text/plain": words(html)})]


def words(html: str) -> str:
    """Return the text of some HTML."""
    return " ".join(unescape(re.sub(r"(?s)<style.*?</style>|<[^>]*>", " ", html)).split())


def join_streams(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Join neighbouring pieces of the same stream, since kernels split prints arbitrarily."""
    joined: list[NotebookNode] = []
    for output in outputs:
        last = joined[-1] if joined else {}
        if output.output_type == "stream" and last.get("name") == output.name:
            last["text"] += output.text
        else:
            joined.append(output)
    return joined


def picture(figure: dict) -> NotebookNode:
    """Return an output with the figure as a PNG of at most 60 KB, and a description.

    The PNG goes into an <img>, because neither JupyterLab nor nbconvert's default template adds
    alternative text to an image/png output, whatever its metadata.
    """
    layout = figure.get("layout", {})
    text = caption(layout)
    size = {"width": layout.get("width") or 800, "height": layout.get("height") or 450}
    drawing = {"data": figure["data"], "layout": layout}
    for scale in SCALES:
        png = kaleido.calc_fig_sync(drawing, opts={"format": "png", "scale": scale} | size)
        if len(png) <= MAX_PICTURE_BYTES:
            break
    else:
        raise ValueError(f"figure '{text}' takes {len(png)} bytes even at half size")
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    html = f'<img alt="{escape(text)}" src="{source}">'
    return new_output("display_data", {"text/html": html, "text/plain": text})


def caption(layout: dict) -> str:
    """Return the figure's one-sentence summary if its layout carries one, else its title.

    Raises: ValueError for a figure with neither.
    """
    meta, title = layout.get("meta"), layout.get("title")
    if isinstance(meta, dict) and meta.get("summary"):
        return meta["summary"]
    text = title.get("text") if isinstance(title, dict) else title
    if not text:
        raise ValueError(
            "a figure has neither a summary nor a title: expected words for readers "
            "who cannot see it (new_figure's summary, or layout.title)"
        )
    return text


def check_size(outputs: list[NotebookNode]) -> None:
    """Raises: ValueError when an output would bloat the notebook."""
    for output in outputs:
        for kind, content in output.get("data", {}).items():
            if len(json.dumps(content)) > MAX_OUTPUT_BYTES:
                raise ValueError(f"{kind} of {len(content)} bytes; at most {MAX_OUTPUT_BYTES:,}")
