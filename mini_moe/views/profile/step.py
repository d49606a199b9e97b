"""Pictures of a profiled step: what ran when, and how long each kind took."""

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from mini_moe.profiling.timing import Segment, StepProfile
from mini_moe.profiling.timing.recording import KINDS
from mini_moe.profiling.timing.segments import PHASES
from mini_moe.views.style import OKABE_ITO, QUIET, new_figure

# colour and pattern, so that phases can be told apart without colour
LOOK = {
    "forward": (OKABE_ITO[0], ""),
    "backward": (OKABE_ITO[1], "/"),
    "optimizer": (OKABE_ITO[2], "x"),
    "other": (QUIET, "."),
}
NEAR = 2e-5  # seconds; closer segments of one module are drawn as one


def step_bars(profile: StepProfile, title: str = "") -> go.Figure:
    """Draw the milliseconds of each kind of part, with forward, backward and optimizer stacked."""
    sums = profile.by("kind")
    kinds = [kind for kind in sums if kind != "other"] + ["other"] * ("other" in sums)
    first = kinds[0]
    summary = (
        f"{profile.name.capitalize()}: {first} takes longest, {1e3 * sums[first]:.3g} of "
        f"{1e3 * profile.seconds:.3g} ms ({sums[first] / profile.seconds:.0%}); "
        f"{profile.coverage:.1%} of the time is accounted for."
    )
    figure = new_figure(
        summary, height=150 + 26 * len(kinds), title_text=title, barmode="stack", margin_r=110,
        legend={"orientation": "h", "x": 1, "xanchor": "right", "y": 1.0, "yanchor": "bottom"},
    )  # fmt: skip
    for phase in PHASES:
        spent = {row.kind: 1e3 * row.seconds for row in profile.rows if row.phase == phase}
        if spent:
            colour, pattern = LOOK[phase]
            figure.add_bar(
                x=[spent.get(kind, 0.0) for kind in kinds], y=kinds, orientation="h", name=phase,
                marker={"color": colour, "pattern": {
                    "shape": pattern, "fillmode": "overlay", "fgcolor": "#FFFFFF",
                    "solidity": 0.2}},
                hovertemplate="%{y}, " + phase + ": %{x:.2f} ms<extra></extra>",
            )  # fmt: skip
    for kind in kinds:
        figure.add_annotation(
            x=1.01, xref="paper", xanchor="left", y=kind, showarrow=False,
            text=f"{1e3 * sums[kind]:.1f} ms {sums[kind] / profile.seconds:.0%}",
        )  # fmt: skip
    figure.update_xaxes(title_text="milliseconds per step")
    figure.update_yaxes(autorange="reversed")
    return figure


def step_timeline(profile: StepProfile | Sequence[Segment], title: str = "") -> go.Figure:
    """Draw a step from left to right: a row per kind of part, a bar whenever it was running.

    Hover to see the module. Drag over a range to zoom in, double-click to zoom back out.
    Raises: ValueError without segments.
    """
    segments = profile.segments if isinstance(profile, StepProfile) else list(profile)
    if not segments:
        raise ValueError("profile: at least one segment expected")
    bars = joined(segments)
    kinds = [kind for kind in KINDS if any(bar.part.kind == kind for bar in bars)]
    end = max(bar.start + bar.seconds for bar in bars)
    ends = {p: max((b.start + b.seconds for b in bars if b.phase == p), default=0) for p in PHASES}
    summary = (
        f"One step of {1e3 * end:.3g} ms: forward until {1e3 * ends['forward']:.3g} ms, "
        f"backward until {1e3 * ends['backward']:.3g} ms, then the optimizer."
        if ends["backward"]
        else f"One forward pass of {1e3 * end:.3g} ms."
    )
    figure = new_figure(
        summary, height=150 + 24 * len(kinds), title_text=title, barmode="overlay", bargap=0.15,
        legend={"orientation": "h", "x": 1, "xanchor": "right", "y": 1.0, "yanchor": "bottom"},
        margin_r=20,
    )  # fmt: skip
    for phase in PHASES:
        mine = [bar for bar in bars if bar.phase == phase]
        if mine:
            figure.add_bar(
                base=[1e3 * bar.start for bar in mine], x=[1e3 * bar.seconds for bar in mine],
                y=[bar.part.kind for bar in mine], orientation="h", name=phase,
                marker={"color": LOOK[phase][0], "line": {"width": 0}},
                customdata=[
                    [html.escape(bar.part.path), bar.calls, 1e3 * bar.seconds] for bar in mine
                ],
                hovertemplate="%{customdata[0]}, " + phase + "<br>%{customdata[2]:.3f} ms, "
                "starting at %{base:.2f} ms<br>%{customdata[1]} calls<extra></extra>",
            )  # fmt: skip
    figure.update_xaxes(title_text="milliseconds since the step began", range=[0, 1e3 * end])
    figure.update_yaxes(categoryorder="array", categoryarray=kinds[::-1])
    return figure


def joined(segments: Sequence[Segment]) -> list[Segment]:
    """Merge neighbouring segments of one module and phase if the gap is shorter than NEAR."""
    bars: list[Segment] = []
    last: dict[tuple[str, str, str], int] = {}
    for segment in segments:
        key = segment.part.kind, segment.part.path, segment.phase
        if key in last:
            before = bars[last[key]]
            end = before.start + before.seconds
            if segment.start - end < NEAR:
                length = segment.start + segment.seconds - before.start
                calls = before.calls + segment.calls
                bars[last[key]] = before._replace(seconds=length, calls=calls)
                continue
        last[key] = len(bars)
        bars.append(segment)
    return bars


def ladder_bars(
    rungs: Mapping[str, Sequence[Any]], *, title: str = "", unit: str = "ms"
) -> go.Figure:
    """Draw changes made one after another: each rung's fastest timing, and its speed-up over the
    previous rung.

    Raises: ValueError for a rung without timings, or a unit other than "s", "ms".
    """
    scales = {"s": 1.0, "ms": 1e3}
    if unit not in scales:
        raise ValueError(f"unit={unit!r}: one of {', '.join(scales)} expected")
    if not rungs or not all(len(times) for times in rungs.values()):
        raise ValueError("rungs: at least one timing per rung expected")
    best = {name: scales[unit] * min(times) for name, times in rungs.items()}
    names = list(best)
    gains = [math.nan] + [best[a] / best[b] for a, b in zip(names, names[1:], strict=False)]
    figure = new_figure(
        f"From {best[names[0]]:.3g} to {best[names[-1]]:.3g} {unit}: "
        f"{best[names[0]] / best[names[-1]]:.1f} times as fast over {len(names) - 1} changes.",
        height=120 + 44 * len(names), title_text=title, margin_r=200, showlegend=False,
    )  # fmt: skip
    figure.add_bar(
        x=list(best.values()), y=names, orientation="h", marker_color=OKABE_ITO[0], name="fastest"
    )
    for name, gain in zip(names, gains, strict=True):
        said = "" if math.isnan(gain) else f", {gain:.2f} × as fast"
        figure.add_annotation(
            x=1.01, xref="paper", xanchor="left", y=name, showarrow=False,
            text=f"{best[name]:.3g} {unit}{said}",
        )  # fmt: skip
    figure.update_xaxes(title_text=f"{unit}, fastest run of each", rangemode="tozero")
    figure.update_yaxes(autorange="reversed")
    return figure
