"""How a step grows and what fills memory, measured and predicted."""

from collections.abc import Mapping

import plotly.graph_objects as go

from mini_moe.profiling import Growth, StepMemory
from mini_moe.views.style import DASHES, OKABE_ITO, QUIET, SYMBOLS, new_figure, set_summary

MEGA = 1e6


def growth_curves(
    measured: Mapping[str, Growth], *, memory: bool = False, title: str = ""
) -> go.Figure:
    """Draw time (or memory) against size, both on log₂ axes; thin lines are the fitted powers.

    Sizes are divided by each curve's smallest, so that all curves start at 1; a grey line shows
    proportional growth.
    Raises: ValueError without curves, or if memory was not predicted.
    """
    if not measured:
        raise ValueError("measured: at least one curve expected")
    figure = new_figure("", height=450, title_text=title, margin_r=250, showlegend=False)
    said, last = [], []
    widest = max(growth.values[-1] / growth.values[0] for growth in measured.values())
    figure.add_scatter(
        x=[1, widest], y=[1, widest], mode="lines", name="in proportion", hoverinfo="skip",
        line={"color": QUIET, "dash": "dash", "width": 1.5},
    )  # fmt: skip
    for n, (name, growth) in enumerate(measured.items()):
        if memory and not growth.n_bytes:
            raise ValueError(f"measured[{name!r}]: memory of a {growth.what} was not predicted")
        y = growth.n_bytes if memory else growth.seconds
        power = growth.memory if memory else growth.time
        times = [value / growth.values[0] for value in growth.values]
        ratios = [value / y[0] for value in y]
        colour, unit = OKABE_ITO[n % 7], "MB" if memory else "ms"
        shown = [value / MEGA if memory else value * 1e3 for value in y]
        figure.add_scatter(
            x=times, y=ratios, name=name, mode="markers", customdata=list(
                zip(growth.values, shown, strict=True)),
            marker={"symbol": SYMBOLS[n % 8], "size": 10, "color": colour},
            hovertemplate=name + " %{customdata[0]:,}: %{customdata[1]:.3g} "
            + unit + "<extra></extra>",
        )  # fmt: skip
        fitted = [power.factor * value**power.exponent / y[0] for value in growth.values]
        figure.add_scatter(
            x=times, y=fitted, mode="lines", name=f"{name}, fitted", hoverinfo="skip",
            line={"color": colour, "dash": DASHES[n % 8], "width": 1.5},
        )  # fmt: skip
        last.append((ratios[-1], f"{name}: {power}", colour))
        said.append(f"{name} grows with the power {power}")
    _name_curves(figure, last)
    what = "memory" if memory else "time"
    ticks = [2**n for n in range(20) if 2**n <= 2 * widest]
    ticks = ticks[:: max(1, len(ticks) // 8)]
    by_doubling = {"type": "log", "tickvals": ticks, "ticktext": [str(tick) for tick in ticks]}
    figure.update_xaxes(title_text="size, times the smallest", **by_doubling)
    figure.update_yaxes(title_text=f"{what}, times that of the smallest", **by_doubling)
    set_summary(figure, f"{what.capitalize()}: " + "; ".join(said) + " (± standard error).")
    return figure


def _name_curves(figure: go.Figure, ends: list[tuple[float, str, str]]) -> None:
    """Write names and exponents in a column on the right, in the order of the last points."""
    for place, (_, text, colour) in enumerate(sorted(ends, reverse=True)):
        figure.add_annotation(
            x=1.03, xref="paper", xanchor="left", y=0.95 - 0.085 * place, yref="paper", text=text,
            showarrow=False, font={"color": colour},
        )  # fmt: skip
    figure.add_annotation(
        x=1.03, xref="paper", xanchor="left", y=1.04, yref="paper", text="power ± standard error",
        showarrow=False, font={"color": QUIET, "size": 12},
    )  # fmt: skip


def memory_bars(
    foretold: StepMemory, measured: StepMemory | None = None, title: str = ""
) -> go.Figure:
    """Draw a training step's memory by what it holds, and the peak: predicted and measured, in MB.

    The summary says which bars add up to the peak: `temporary` is everything else at that moment.
    """
    columns = {"predicted": foretold} | ({"measured": measured} if measured else {})
    names = ["weights", "optimizer", "gradients", "activations", "temporary", "peak"]
    figure = new_figure(
        "", width=660, height=190 + 40 * len(names), title_text=title, barmode="group", margin_r=80,
        legend={"orientation": "h", "x": 0, "xanchor": "left", "y": 1.0, "yanchor": "bottom"},
    )  # fmt: skip
    for n, (column, memory) in enumerate(columns.items()):
        sizes = [getattr(memory, name) / MEGA for name in names]
        figure.add_bar(
            x=sizes, y=names, orientation="h", name=column, text=[f"{size:,.1f}" for size in sizes],
            textposition="outside", cliponaxis=False,
            marker={"color": OKABE_ITO[n], "pattern": {
                "shape": "/" if n else "", "fillmode": "overlay", "fgcolor": "#FFFFFF",
                "solidity": 0.2}},
        )  # fmt: skip
    summary = f"Predicted peak {foretold.peak / MEGA:,.1f} MB"
    if measured:
        off = foretold.peak / measured.peak - 1
        summary += f", measured {measured.peak / MEGA:,.1f} MB ({off:+.1%})"
    set_summary(figure, f"{summary}. {_sum_in_words(measured or foretold)}")
    most = max(memory.peak for memory in columns.values()) / MEGA
    figure.update_xaxes(title_text="megabytes", range=[0, 1.02 * most])
    figure.update_yaxes(autorange="reversed")
    return figure


def _sum_in_words(memory: StepMemory) -> str:
    """Say which bars add up to the peak; the batch, a few kilobytes, has no bar."""
    phase = max(memory.peaks, key=memory.peaks.__getitem__)
    held = "gradients" if phase == "optimizer" else "activations"
    return f"The peak is in the {phase} phase: weights, optimizer, {held} and temporary memory."
