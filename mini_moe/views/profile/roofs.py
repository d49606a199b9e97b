"""The roofline: every part as a point below the machine's limits."""

import math

import plotly.graph_objects as go

from mini_moe.profiling.roofline import Point, Roofline
from mini_moe.views.style import ACCENT, OKABE_ITO, QUIET, new_figure

BOUND_LOOK = {"compute": (OKABE_ITO[0], "circle"), "bytes": (OKABE_ITO[1], "square"),
              "calls": (OKABE_ITO[3], "diamond")}  # fmt: skip

PIXELS = (560.0, 320.0)  # size of the upper panel, used to keep names apart
HEADROOM = 2.2  # the axis ends this many times above the roof


def roofline_chart(roof: Roofline, title: str = "") -> go.Figure:
    """Draw FLOP/s against FLOPs per byte under the measured roofs; below, GB/s of other parts.

    The sloping roofs are what memory and cache can feed at each intensity, the flat one is the
    peak of matrix products. The lower panel shows parts without matrix products. Colour and symbol
    show the limit that takes the most time; the hover text says how much of the time it explains.
    """
    with_products = [point for point in roof.points if point.flops]
    without = [point for point in roof.points if not point.flops]
    peak = roof.limits.flops[roof.dtype]
    best = max(with_products, key=lambda point: point.flops_per_second)
    summary = (
        f"{best.kind} reaches {best.flops_per_second / 1e9:,.0f} of {peak / 1e9:,.0f} GFLOP/s; "
        f"the whole step {roof.utilisation:.0%} ({roof.dtype}). "
        + _bound_in_words(list(roof.points))
    )
    figure = new_figure(
        summary, width=660, height=630, title_text=title, margin={"l": 65, "r": 30, "b": 40},
        yaxis={"domain": [0.36, 1]}, xaxis2={"anchor": "y2"},
        yaxis2={"domain": [0, 0.2], "anchor": "x2"},
        margin_t=76 if title else 60, title_y=0.975, title_yanchor="top",
        legend={"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom", "font_size": 13,
                "title_text": "bound by "},
    )  # fmt: skip
    for bound, (colour, symbol) in BOUND_LOOK.items():
        mine = [point for point in with_products if point.bound == bound]
        if mine:
            figure.add_scatter(
                x=[p.intensity for p in mine], y=[p.flops_per_second / 1e9 for p in mine],
                mode="markers", name=bound,
                marker={"color": colour, "symbol": symbol, "size": 11,
                        "line": {"width": 1, "color": "#FFFFFF"}},
                customdata=[_hover(point) for point in mine],
                hovertemplate="%{customdata}<extra></extra>",
            )  # fmt: skip
    ticks = [n * 10**power for power in range(-3, 8) for n in (1, 2, 5)]
    by_tens = {"type": "log", "tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}
    figure.update_layout(
        xaxis={"title_text": "FLOPs per byte (least traffic)", **by_tens},
        yaxis={"title_text": "GFLOP/s", **by_tens},
    )
    _add_roofs(figure, roof, with_products)
    _name_points(figure, with_products)
    _add_movers(figure, roof, without)
    return figure


def _bound_in_words(points: list[Point]) -> str:
    said = []
    for bound in BOUND_LOOK:
        kinds = [point.kind for point in points if point.bound == bound]
        if kinds:
            said.append(f"{bound}: {', '.join(kinds)}")
    return "Bound by " + "; ".join(said) + "."


def _hover(point: Point) -> str:
    return (
        f"{point.kind}: {1e3 * point.seconds:.2f} ms, {point.calls} calls<br>"
        f"{point.flops / 1e9:.3g} GFLOP, {point.n_bytes / 1e6:.3g} MB<br>"
        + "<br>".join(f"{name} alone: {1e3 * s:.2f} ms" for name, s in point.limits.items())
        + f"<br>bound by {point.bound}, which explains {point.reached:.0%}"
    )


def _add_roofs(figure: go.Figure, roof: Roofline, points: list[Point]) -> None:
    peak = roof.limits.flops[roof.dtype] / 1e9
    low, high = min(p.intensity for p in points) / 3, max(p.intensity for p in points) * 3
    floor = min(p.flops_per_second / 1e9 for p in points) / 3
    figure.update_layout(
        xaxis_range=[math.log10(low), math.log10(high)],
        yaxis_range=[math.log10(floor), math.log10(HEADROOM * peak)],
    )
    roofs = (
        ("memory", roof.limits.memory_bytes / 1e9, "solid"),
        ("cache", roof.limits.cache_bytes / 1e9, "dot"),
    )
    for name, rate, dash in roofs:
        bend = min(max(peak / rate, low), high)
        figure.add_scatter(
            x=[low, bend, high], y=[min(low * rate, peak), min(bend * rate, peak), peak],
            mode="lines", line={"color": "#444444", "dash": dash, "width": 2},
            name=f"{name} {rate:.0f} GB/s", hoverinfo="skip",
        )  # fmt: skip
    figure.add_annotation(
        x=1.0, xref="x domain", xanchor="right", y=math.log10(peak), yanchor="bottom",
        showarrow=False, text=f"{roof.dtype} peak {peak:.0f} GFLOP/s",
    )  # fmt: skip


def _name_points(figure: go.Figure, points: list[Point]) -> None:
    """Write a name next to each point, in the nearest free spot, joined to it by a thin line."""
    at = {
        point.kind: (
            (math.log10(point.intensity) - figure.layout.xaxis.range[0]) * PIXELS[0]
            / (figure.layout.xaxis.range[1] - figure.layout.xaxis.range[0]),
            (math.log10(point.flops_per_second / 1e9) - figure.layout.yaxis.range[0]) * PIXELS[1]
            / (figure.layout.yaxis.range[1] - figure.layout.yaxis.range[0]),
        )
        for point in points
    }  # fmt: skip
    taken = [(x, y, 9.0, 9.0) for x, y in at.values()]  # centre, half width, half height
    roof = figure.layout.yaxis.range[1] - math.log10(HEADROOM)
    high = (roof - figure.layout.yaxis.range[0]) * PIXELS[1] / (
        figure.layout.yaxis.range[1] - figure.layout.yaxis.range[0]
    )  # fmt: skip
    taken.append((PIXELS[0] / 2, high + 8, PIXELS[0] / 2, 12.0))  # the roof and its name
    for point in points:
        x, y = at[point.kind]
        half = 4.0 * len(point.kind)
        places = [
            (side * (half + 14 + more), -up)
            for more in (0, 15, 40)
            for up in (0, 18, -18, 36, -36, 54, -54)
            for side in (-1, 1)
        ]
        free = [
            place for place in places
            if y - place[1] < high  # below the roof
            and not any(abs(x + place[0] - a) < half + w and abs(y - place[1] - b) < 8 + h
                        for a, b, w, h in taken)
        ]  # fmt: skip
        right, down = (free or places)[0]
        taken.append((x + right, y - down, half, 8.0))
        figure.add_annotation(
            x=math.log10(point.intensity), y=math.log10(point.flops_per_second / 1e9),
            ax=right, ay=down, text=point.kind, font={"size": 13}, showarrow=True, arrowhead=0,
            arrowwidth=1, arrowcolor=QUIET, standoff=6,
        )  # fmt: skip


def _add_movers(figure: go.Figure, roof: Roofline, points: list[Point]) -> None:
    """Add bars for the parts without matrix products: GB/s, with memory bandwidth as a line."""
    figure.add_bar(
        x=[point.kind for point in points], y=[point.bytes_per_second / 1e9 for point in points],
        xaxis="x2", yaxis="y2", marker_color=QUIET, name="no products", showlegend=False,
        customdata=[_hover(point) for point in points],
        hovertemplate="%{customdata}<extra></extra>",
    )  # fmt: skip
    memory = roof.limits.memory_bytes / 1e9
    figure.add_shape(
        type="line", xref="x2 domain", x0=0, x1=1, yref="y2", y0=memory, y1=memory,
        line={"color": ACCENT, "dash": "dash", "width": 2},
    )  # fmt: skip
    figure.add_annotation(
        x=1, xref="x2 domain", xanchor="right", y=memory, yref="y2", yanchor="bottom",
        text="memory", showarrow=False, font={"color": ACCENT}, bgcolor="#FFFFFF", borderpad=1,
        yshift=2,
    )  # fmt: skip
    figure.update_layout(xaxis2_tickangle=0, yaxis2_title_text="GB/s,<br>no products")
