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

MAX_PICTURE_BYTES = 60_000
MAX_OUTPUT_BYTES = 100_000  # for anything but a picture
SCALES = (1.5, 1.25, 1.0, 0.85, 0.7, 0.6, 0.5)  # pixels per figure unit, best first


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
    """Replace everything interactive and everything that differs between runs."""
    for index, cell in enumerate(notebook.cells):
        cell.metadata.pop("execution", None)
        if "outputs" in cell:
            new = [new for old in cell.outputs for new in static_outputs(old, parts)]
            cell.outputs = join_streams(new)
            check_size(index, cell)
    notebook.metadata = NotebookNode(kernelspec=KERNEL, language_info={"name": "python"})


def static_outputs(output: NotebookNode, parts: dict[str, list[dict]]) -> list[NotebookNode]:
    """Return what to store for one output; most outputs are stored unchanged."""
    data = output.get("data", {})
    if PLOTLY in data:
        return [new_output("display_data", picture(data[PLOTLY]))]
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
        return [new_output("display_data", picture(json.loads(content)))]
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


def picture(figure: dict) -> dict[str, str]:
    """Return a figure as a PNG of at most 60 KB, with its caption as text."""
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
    """Return the figure's one-sentence summary if its layout has one, else its title."""
    meta, title = layout.get("meta"), layout.get("title")
    if isinstance(meta, dict) and meta.get("summary"):
        return meta["summary"]
    text = title.get("text") if isinstance(title, dict) else title
    return text or "figure"


def check_size(index: int, cell: NotebookNode) -> None:
    """Raise ValueError if an output would bloat the notebook."""
    for output in cell.outputs:
        for kind, content in output.get("data", {}).items():
            if kind != "image/png" and len(json.dumps(content)) > MAX_OUTPUT_BYTES:
                raise ValueError(f"cell {index} (id {cell.id}): {kind} of {len(content)} bytes")
