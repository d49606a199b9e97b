"""A common look for every figure, summaries in words, and callbacks that show their errors."""

import functools
import html
import json
import traceback
from collections.abc import Callable
from typing import Any

import plotly.graph_objects as go
from plotly.basedatatypes import BaseFigure

OKABE_ITO = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442",
)  # fmt: skip
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot", "solid", "dash")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "star", "cross", "hexagon")
ACCENT, QUIET = "#D55E00", "#767676"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
CONFIG = {"displaylogo": False, "responsive": False}

_AXIS = {
    "gridcolor": "#E6E6E6", "linecolor": "#9A9A9A", "showline": True, "ticks": "outside",
    "zeroline": False, "automargin": True, "title": {"standoff": 8},
}  # fmt: skip
TEMPLATE = go.layout.Template(
    layout={
        "colorway": OKABE_ITO,
        "colorscale": {"sequential": "Cividis", "sequentialminus": "Cividis"},
        "font": {"family": FONT, "size": 14, "color": "#222222"},
        "title": {"font": {"size": 17}, "x": 0, "xref": "paper", "xanchor": "left"},
        "paper_bgcolor": "#FFFFFF",
        "plot_bgcolor": "#FFFFFF",
        "xaxis": _AXIS,
        "yaxis": _AXIS,
        "margin": {"l": 60, "r": 30, "t": 60, "b": 50},
        "hoverlabel": {"font": {"family": FONT, "size": 13}},
        # plotly 7 offers to upload every chart; lessons must not offer that for the reader's data.
        "modebar": {"remove": ["sendChartToCloud", "lasso2d", "select2d", "autoScale2d"]},
    }
)


def new_figure(summary: str, *, width: int = 760, height: int = 420, **layout: Any) -> go.Figure:
    """Create an empty figure in the house style; `summary` says in one sentence what it shows."""
    fixed = {"template": TEMPLATE, "width": width, "height": height, "meta": {"summary": summary}}
    return go.Figure(layout={**fixed, **layout})


def summary_of(figure: BaseFigure) -> str:
    """Return the sentence that says what a figure shows."""
    return (figure.layout.meta or {}).get("summary", "")


def set_summary(figure: BaseFigure, summary: str) -> None:
    """Replace a figure's summary, e.g. after redrawing it."""
    figure.layout.meta = {"summary": summary}


def table(figure: BaseFigure) -> list[dict[str, Any]]:
    """Return a figure's numbers, one row per mark: {"series", "x", "y"}; heatmaps add "value",
    and "text" if their cells have text."""
    rows: list[dict[str, Any]] = []
    for trace in figure.data:
        if trace.type == "heatmap":
            rows += _heatmap_rows(trace)
        elif trace.type == "treemap":
            labels = zip(trace.labels, trace.values, strict=True)
            rows += [{"series": label, "y": float(value)} for label, value in labels]
        elif trace.x is not None and trace.y is not None:
            pairs = zip(trace.x, trace.y, strict=True)
            rows += [{"series": trace.name or "", "x": x, "y": y} for x, y in pairs]
    return rows


def _heatmap_rows(trace: go.Heatmap) -> list[dict[str, Any]]:
    columns = trace.x if trace.x is not None else range(len(trace.z[0]))
    lines = trace.y if trace.y is not None else range(len(trace.z))
    rows = [
        {
            "series": trace.name or "",
            "x": x,
            "y": y,
            "value": value if value is None else float(value),
        }
        for y, line in zip(lines, trace.z, strict=True)
        for x, value in zip(columns, line, strict=True)
    ]
    words = () if trace.text is None else [word for line in trace.text for word in line]
    for row, word in zip(rows, words, strict=False):
        row["text"] = word
    return rows


class Shown:
    """A figure for Jupyter, followed by its summary; in a terminal, only the summary."""

    def __init__(self, figure: BaseFigure) -> None:
        self.figure = figure

    def __repr__(self) -> str:
        return summary_of(self.figure)

    def _ipython_display_(self) -> None:
        from IPython.display import Markdown, display

        picture = json.loads(self.figure.to_json()) | {"config": CONFIG}
        mime = {"application/vnd.plotly.v1+json": picture, "text/plain": repr(self)}
        display(mime, raw=True)
        if repr(self):
            display(Markdown(f"*{repr(self)}*"))


def show(figure: BaseFigure) -> Shown:
    """Show the figure and its summary below it; call this on the last line of a cell."""
    return Shown(figure)


class Html:
    """HTML for Jupyter, with the same content as plain text for terminals and screen readers."""

    def __init__(self, html: str, text: str) -> None:
        self.html, self.text = html, text

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        return self.html


def as_widget(figure: BaseFigure, buttons: bool = True) -> Any:
    """Return the figure as a widget that Python can update; use at most two per notebook.

    `buttons`: whether plotly's own buttons (zoom, save as image) appear over the figure.
    """
    widget = go.FigureWidget(figure)
    widget._config = CONFIG | ({} if buttons else {"displayModeBar": False})
    return widget


def safe_callback(box: Any) -> Callable:
    """Decorate a widget's callback so that its exceptions appear in `box`, an ipywidgets.HTML.

    Without it, Jupyter silently drops them and the view simply stops updating.
    """

    def decorate(callback: Callable) -> Callable:
        @functools.wraps(callback)
        def run(*arguments: Any, **named: Any) -> None:
            try:
                callback(*arguments, **named)
                box.value = ""
            except Exception as error:
                box.value = error_html(error)

        return run

    return decorate


def error_html(error: BaseException) -> str:
    """Return a visible box with the exception and the last line of its traceback."""
    last = traceback.extract_tb(error.__traceback__)
    where = f" ({last[-1].name}, line {last[-1].lineno})" if last else ""
    text = html.escape(f"{type(error).__name__}: {error}{where}")
    return (
        '<div role="alert" style="border:1px solid #B00020;background:#FFF1F1;color:#7A0016;'
        f'padding:4px 8px;border-radius:4px">{text}</div>'
    )


def readable_on(background: str) -> str:
    """Return black or white, whichever contrasts more with a colour "#RRGGBB"."""
    return (
        "#FFFFFF"
        if contrast("#FFFFFF", background) >= contrast("#000000", background)
        else ("#000000")
    )


def contrast(first: str, second: str) -> float:
    """Return the contrast ratio of two colours, 1 to 21; text needs 4.5 (WCAG 2.1 §1.4.3)."""
    bright, dark = sorted((_luminance(first), _luminance(second)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    channels = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
