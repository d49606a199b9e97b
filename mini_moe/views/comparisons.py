"""Side-by-side comparisons: curves, training logs, timings with their spread, cache sizes."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from mini_moe.views.style import DASHES, OKABE_ITO, SYMBOLS, new_figure, set_summary

Points = tuple[Sequence[Any], Sequence[Any]]  # numbers: x values, y values


def compare_curves(
    curves: Mapping[str, Points], *, x_title: str, y_title: str, title: str = "",
    log_x: bool = False, log_y: bool = False, markers: bool = False,
) -> go.Figure:  # fmt: skip
    """Draw one line per name from (x, y); colour and dash tell them apart, each end has a name.

    On a logarithmic x axis the ticks are the points of the first curve.

    Raises: ValueError for a curve without points, or with x and y of different lengths.
    """
    if not curves:
        raise ValueError("curves: at least one expected")
    figure = new_figure("", title_text=title, showlegend=False)
    ends = []
    for n, (name, (x, y)) in enumerate(curves.items()):
        x, y = [float(v) for v in x], [float(v) for v in y]
        if not x or len(x) != len(y):
            raise ValueError(f"curves[{name!r}]: x and y of the same nonzero length expected")
        colour = OKABE_ITO[n % 7]
        figure.add_scatter(
            x=x, y=y, name=name, mode="lines+markers" if markers else "lines",
            line={"color": colour, "dash": DASHES[n % 8], "width": 2.5},
            marker={"symbol": SYMBOLS[n % 8], "size": 7},
        )  # fmt: skip
        ends.append((name, y[-1], colour))
    _name_ends(figure, ends, log_y)
    longest = max(len(note.text) for note in figure.layout.annotations)
    figure.update_layout(margin_r=max(150, 20 + 8 * longest), margin_t=60 if title else 20)
    figure.update_xaxes(title_text=x_title)
    if log_x:
        points = figure.data[0].x
        figure.update_xaxes(type="log", tickvals=points, ticktext=[f"{x:,g}" for x in points])
    figure.update_yaxes(title_text=y_title, type="log" if log_y else "linear")
    heights = [y for trace in figure.data for y in trace.y if y > 0]
    if log_y and heights and max(heights) < 1e3 * min(heights):
        figure.update_yaxes(dtick="D2")  # numbers at 1, 2 and 5 only
    last = "; ".join(f"{name} ends at {value:.4g}" for name, value, _ in ends)
    set_summary(figure, f"{y_title} against {x_title}: {last}.")
    return figure


def _name_ends(figure: go.Figure, ends: list[tuple[str, float | int, str]], log_y: bool) -> None:
    """Write each curve's name next to its last point, moved apart where names would overlap."""
    heights = [y for trace in figure.data for y in trace.y]
    scale = (lambda v: math.log10(max(v, 1e-12))) if log_y else (lambda v: v)
    span = (scale(max(heights)) - scale(min(heights))) or 1.0
    at = None
    for name, value, colour in sorted(ends, key=lambda end: end[1]):
        height = scale(value)
        at = height if at is None else max(height, at + 0.065 * span)
        figure.add_annotation(
            x=1.01, xref="paper", xanchor="left", y=at, text=f"{name} {value:.3g}",
            showarrow=False, font={"color": colour if colour != "#F0E442" else "#6B6400"},
        )  # fmt: skip


def log_curves(
    logs: Mapping[str, Sequence[Mapping[str, Any]]], *, y: str = "loss", x: str = "step",
    title: str = "", smooth: int = 1,
) -> go.Figure:  # fmt: skip
    """Draw one field of several training logs, e.g. `loss` against `seconds` or `step`.

    Each point is the mean of the last `smooth` values. Records without the field are skipped.
    """
    curves = {}
    for name, log in logs.items():
        rows = [record for record in log if x in record and y in record]
        values = [float(record[y]) for record in rows]
        smoothed = [
            statistics.fmean(values[max(0, i + 1 - smooth) : i + 1]) for i in range(len(values))
        ]
        curves[name] = ([record[x] for record in rows], smoothed)
    return compare_curves(curves, x_title=x, y_title=y.replace("_", " "), title=title)


def timing_bars(
    seconds: Mapping[str, Sequence[Any]], *, title: str = "", unit: str = "ms"
) -> go.Figure:
    """Draw the median of repeated timings, with whiskers from the fastest to the slowest.

    Raises: ValueError for a name without timings, or a unit other than "s", "ms", "µs".
    """
    scales = {"s": 1.0, "ms": 1e3, "µs": 1e6}
    if unit not in scales:
        raise ValueError(f"unit={unit!r}: one of {', '.join(scales)} expected")
    if not seconds or not all(len(times) for times in seconds.values()):
        raise ValueError("seconds: at least one timing per name expected")
    scaled = {name: [t * scales[unit] for t in times] for name, times in seconds.items()}
    medians = {name: statistics.median(times) for name, times in scaled.items()}
    fastest = min(medians, key=medians.__getitem__)
    slowest = max(medians, key=medians.__getitem__)
    summary = f"{fastest} takes {medians[fastest]:.3g} {unit}"
    if len(medians) > 1:
        ratio = medians[slowest] / medians[fastest]
        summary += f", {slowest} {medians[slowest]:.3g} {unit}: {ratio:.1f} times as long"
    figure = new_figure(
        f"{summary} (medians).", height=120 + 50 * len(medians), title_text=title, margin_r=110
    )
    figure.add_bar(
        x=list(medians.values()), y=list(medians), orientation="h", marker_color=OKABE_ITO[0],
        name="median",
        error_x={
            "type": "data", "symmetric": False, "color": "#444444",
            "array": [max(scaled[name]) - value for name, value in medians.items()],
            "arrayminus": [value - min(scaled[name]) for name, value in medians.items()],
        },
    )  # fmt: skip
    for name, value in medians.items():
        figure.add_annotation(
            x=1.01, xref="paper", xanchor="left", y=name, text=f"{value:.3g} {unit}",
            showarrow=False,
        )  # fmt: skip
    figure.update_xaxes(title_text=f"{unit}, median of {len(next(iter(scaled.values())))} runs")
    figure.update_xaxes(rangemode="tozero")
    figure.update_yaxes(autorange="reversed")
    return figure


def cache_bars(bytes_per_token: Mapping[str, int | float], title: str = "") -> go.Figure:
    """Draw how many bytes of cache one token needs, with the ratio to the smallest.

    Raises: ValueError without names, or for bytes that are not above 0.
    """
    if not bytes_per_token or min(bytes_per_token.values()) <= 0:
        raise ValueError("bytes_per_token: at least one name, and bytes above 0, expected")
    smallest = min(bytes_per_token, key=bytes_per_token.__getitem__)
    largest = max(bytes_per_token, key=bytes_per_token.__getitem__)
    least = bytes_per_token[smallest]
    summary = (
        f"{largest} keeps {bytes_per_token[largest]:,} bytes per token, {smallest} {least:,}: "
        f"a factor of {bytes_per_token[largest] / least:.1f}."
    )
    figure = new_figure(
        summary, height=120 + 46 * len(bytes_per_token), title_text=title, margin_r=190
    )
    values = list(bytes_per_token.values())
    figure.add_bar(
        x=values, y=list(bytes_per_token), orientation="h", marker_color=OKABE_ITO[0],
        text=[f"{v:,} ({v / least:.3g} ×)" for v in values], textposition="outside",
        cliponaxis=False, name="bytes",
    )  # fmt: skip
    figure.update_xaxes(title_text="bytes of cache per token")
    figure.update_yaxes(autorange="reversed")
    return figure
