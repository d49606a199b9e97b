"""Several seeds in one picture: means with Student's t interval, and what can be claimed."""

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from mini_moe.experiments import Interval, compare, mean_interval
from mini_moe.experiments.measures import curve
from mini_moe.views.style import ACCENT, DASHES, OKABE_ITO, QUIET, SYMBOLS, new_figure, set_summary

BAND = 0.18  # opacity of the interval's area


def loss_bands(
    runs: Sequence[Mapping[str, Any]],
    names: Mapping[str, str],
    *,
    seconds_per_step: Mapping[str, float] | None = None,
    live: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    first_step: int = 50,
    title: str = "",
) -> go.Figure:
    """Draw the training loss of some arms, {arm: name in the picture}: mean and 95 % band.

    The x axis is steps, or seconds if `seconds_per_step` gives them for each arm. `live` adds
    single runs from this machine, {name: training log}, dotted and without a band.
    Raises: ValueError for no arms, an arm without runs, or an arm without a time.
    """
    if not names:
        raise ValueError("names: at least one arm expected")
    figure = new_figure("", title_text=title, height=440, margin_t=60 if title else 20)
    ends = []
    for n, (arm, name) in enumerate(names.items()):
        steps, means = _mean_curve(runs, arm, first_step)
        scale = 1.0
        if seconds_per_step is not None:
            if arm not in seconds_per_step:
                raise ValueError(f"seconds_per_step: one for arm {arm!r} expected")
            scale = seconds_per_step[arm]
        x = [scale * step for step in steps]
        _add_band(figure, x, means, name, n)
        ends.append(f"{name} ends at {means[-1].mean:.2f} ± {means[-1].half:.2f}")
    for n, (name, log) in enumerate((live or {}).items()):
        points = [point for point in curve(list(log), "loss") if point[0] >= first_step]
        figure.add_scatter(
            x=[step for step, _, _ in points], y=[loss for _, _, loss in points], name=name,
            mode="lines+markers", line={"color": OKABE_ITO[n % 7], "dash": "dot", "width": 1.5},
            marker={"symbol": SYMBOLS[n % 8] + "-open", "size": 7},
        )  # fmt: skip
    figure.update_xaxes(title_text="steps" if seconds_per_step is None else "seconds of training")
    figure.update_yaxes(title_text="training loss (nats per token)")
    figure.update_layout(legend={"x": 0.98, "y": 0.98, "xanchor": "right", "yanchor": "top"})
    set_summary(figure, "; ".join(ends) + " (95 % intervals over seeds).")
    return figure


def _mean_curve(
    runs: Sequence[Mapping[str, Any]], arm: str, first_step: int
) -> tuple[list[int], list[Interval]]:
    curves = [run["curve"] for run in runs if run["arm"] == arm]
    if not curves:
        known = ", ".join(dict.fromkeys(run["arm"] for run in runs))
        raise ValueError(f"arm={arm!r}: one of {known} expected")
    at_step = [points for points in zip(*curves, strict=True) if points[0][0] >= first_step]
    steps = [points[0][0] for points in at_step]
    return steps, [mean_interval([loss for _, _, loss in points]) for points in at_step]


def _add_band(figure: go.Figure, x: list[float], means: list[Interval], name: str, n: int) -> None:
    colour = OKABE_ITO[n % 7]
    figure.add_scatter(
        x=x + x[::-1], y=[m.high for m in means] + [m.low for m in means][::-1], fill="toself",
        mode="lines", line={"width": 0}, fillcolor=_faint(colour), hoverinfo="skip",
        showlegend=False, name=f"{name}, interval",
    )  # fmt: skip
    figure.add_scatter(
        x=x, y=[m.mean for m in means], name=name, mode="lines",
        line={"color": colour, "dash": DASHES[n % 8], "width": 2.5},
    )  # fmt: skip


def _faint(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, {BAND})"


def interval_line(
    series: Mapping[str, Mapping[Any, Sequence[Any]]],
    *,
    x_title: str,
    y_title: str = "validation loss (nats per token)",
    log_x: bool = False,
    title: str = "",
) -> go.Figure:
    """Draw means with 95 % intervals, {name: {x: one value per seed}}, joined by lines.

    Raises: ValueError without series, or if an x has fewer than two values.
    """
    if not series or not all(series.values()):
        raise ValueError("series: at least one name with one x expected")
    figure = new_figure("", title_text=title, margin_t=60 if title else 20)
    if len(series) > 1:
        above = {"orientation": "h", "x": 1, "xanchor": "right", "y": 1.02, "yanchor": "bottom"}
        figure.update_layout(height=450, margin_t=90 if title else 50, legend=above)
    said, places = [], []
    for n, (name, values) in enumerate(series.items()):
        x = sorted(values)
        means = [mean_interval(values[place]) for place in x]
        figure.add_scatter(
            x=x, y=[m.mean for m in means], name=name, mode="lines+markers",
            error_y={"array": [m.half for m in means], "thickness": 1.5, "width": 5},
            line={"color": OKABE_ITO[n % 7], "dash": DASHES[n % 8]},
            marker={"symbol": SYMBOLS[n % 8], "size": 9},
        )  # fmt: skip
        said.append(
            f"{name}: {means[0].mean:.3f} ± {means[0].half:.3f} at {x[0]:.4g}, "
            f"{means[-1].mean:.3f} ± {means[-1].half:.3f} at {x[-1]:.4g}"
        )
        places += x
    ticks = {"tickvals": sorted(set(places)), "ticktext": [f"{p:g}" for p in sorted(set(places))]}
    figure.update_xaxes(title_text=x_title, type="log" if log_x else "linear")
    if log_x:
        figure.update_xaxes(**ticks)
    figure.update_yaxes(title_text=y_title)
    figure.update_layout(showlegend=len(series) > 1)
    set_summary(figure, "; ".join(said) + " (95 % intervals over seeds).")
    return figure


def difference_rows(
    runs: Sequence[Mapping[str, Any]], names: Mapping[str, str], reference: str, title: str = ""
) -> go.Figure:
    """Draw each arm's validation loss minus the reference's, paired by seed, with intervals.

    Left of zero the arm is better. If the interval contains zero, nothing can be claimed: the
    row is grey and says so.
    Raises: ValueError for no arms, or fewer than two seeds in common with the reference.
    """
    if not names:
        raise ValueError("names: at least one arm expected")
    rows = {name: compare(runs, arm, reference) for arm, name in names.items()}
    figure = new_figure(
        "", title_text=title, height=130 + 42 * len(rows), margin_r=190, showlegend=False,
        margin_t=60 if title else 20,
    )  # fmt: skip
    figure.add_vline(x=0, line={"color": "#444444", "dash": "dash", "width": 1})
    for name, row in rows.items():
        better = "no claim" if row.holds_zero else "lower" if row.mean < 0 else "higher"
        colour = {"no claim": QUIET, "lower": OKABE_ITO[0], "higher": ACCENT}[better]
        symbol = {"no claim": "circle-open", "lower": "circle", "higher": "square"}[better]
        figure.add_scatter(
            x=[row.mean], y=[name], name=name, mode="markers",
            marker={"color": colour, "symbol": symbol, "size": 11, "line": {"width": 2}},
            error_x={"array": [row.half], "color": colour, "thickness": 2, "width": 6},
        )  # fmt: skip
        figure.add_annotation(
            x=1.01, xref="paper", xanchor="left", y=name, showarrow=False,
            text=f"{row.mean:+.3f} ± {row.half:.3f}  {better}", font={"color": colour},
        )  # fmt: skip
    figure.update_xaxes(title_text=f"validation loss minus that of {reference} (nats per token)")
    figure.update_yaxes(autorange="reversed")
    said = [
        f"{name} {row.mean:+.3f} ± {row.half:.3f}" + (" (no claim)" if row.holds_zero else "")
        for name, row in rows.items()
    ]
    set_summary(figure, f"Compared with {reference}: " + "; ".join(said) + ".")
    return figure
