"""Static pictures of MaxVio, each with its noise floor: over steps, by chance, over seeds."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import plotly.graph_objects as go
import torch

from mini_moe.experiments import mean_interval
from mini_moe.routing import max_violation, noise_floor
from mini_moe.views.comparisons import compare_curves
from mini_moe.views.lab.chance import chance_load
from mini_moe.views.lab.lab_figure import Logs
from mini_moe.views.style import OKABE_ITO, QUIET, new_figure, set_summary

SIZES = (8, 16, 32, 64, 128, 256, 512, 1024, 2048)  # expected choices per expert


def violation_curves(logs: Logs, floor: float, *, place: int = -1, smooth: int = 10) -> go.Figure:
    """Draw MaxVio over the steps of several logs, with the noise floor of one batch.

    `place` is the layer's index in the records, −1 for the last; each point is the mean of the
    last `smooth` steps.
    Raises: ValueError for a log without records.
    """
    curves = {}
    for name, log in logs.items():
        values = torch.tensor([record["max_violation"][place] for record in log])
        means = [values[max(0, n + 1 - smooth) : n + 1].mean().item() for n in range(len(values))]
        curves[name] = ([record["step"] for record in log], means)
    title = f"MaxVio, mean of {smooth} steps" if smooth > 1 else "MaxVio of a batch"
    figure = compare_curves(curves, x_title="step", y_title=title)
    figure.add_hline(
        floor, line={"color": QUIET, "dash": "dot", "width": 2}, annotation_position="top left",
        annotation_text=f"noise floor {floor:.2f}", annotation_font_color=QUIET,
    )  # fmt: skip
    figure.update_yaxes(rangemode="tozero")
    set_summary(figure, f"{figure.layout.meta['summary'][:-1]}; the noise floor is {floor:.2f}.")
    return figure


def chance_by_size(
    n_experts: int = 16, top_k: int = 2, sizes: Sequence[int] = SIZES, draws: int = 200
) -> go.Figure:
    """Draw MaxVio of many random routings against the formula √(2 ln N / m).

    Error bars span 90 % of the draws, from the 5th to the 95th percentile.
    Raises: ValueError as `chance_load` does.
    """
    found = [
        max_violation(chance_load(n_experts, top_k, m * n_experts // top_k, draws)) for m in sizes
    ]
    low, middle, high = ([float(values.quantile(q)) for values in found] for q in (0.05, 0.5, 0.95))
    floors = [noise_floor(n_experts, float(m)) for m in sizes]
    below = min(float((v < f).float().mean()) for v, f in zip(found, floors, strict=True))
    figure = new_figure(
        f"The formula is above at least {below:.0%} of the {draws} random routings at each "
        f"size; the median falls from {middle[0]:.2f} to {middle[-1]:.3f}.",
        legend={"x": 0.98, "xanchor": "right", "y": 0.98}, margin_t=20,
    )  # fmt: skip
    figure.add_scatter(
        x=list(sizes), y=middle, name=f"{draws} random routings: median, 5–95 %", mode="markers",
        marker={"size": 9, "color": OKABE_ITO[0]},
        error_y={
            "symmetric": False, "array": [h - m for h, m in zip(high, middle, strict=True)],
            "arrayminus": [m - lo for m, lo in zip(middle, low, strict=True)],
        },
    )  # fmt: skip
    figure.add_scatter(
        x=list(sizes), y=floors, name="noise floor √(2 ln N / m)", mode="lines",
        line={"color": QUIET, "dash": "dot", "width": 2},
    )  # fmt: skip
    figure.update_xaxes(
        title_text="m: expected choices per expert", type="log", tickvals=list(sizes)
    )
    ticks = [0.02, 0.05, 0.1, 0.2, 0.5, 1, 2]
    figure.update_yaxes(title_text="MaxVio by chance", type="log", tickvals=ticks)
    return figure


def violation_rows(
    runs: Sequence[Mapping[str, Any]], names: Mapping[str, str], floor: float, *,
    kind: str = "global",
) -> go.Figure:  # fmt: skip
    """Draw each arm's MaxVio after training, {arm: name in the picture}: mean and 95 % interval.

    `kind` is "global", over the whole validation text, or "batch", over single training batches;
    the dotted line is the noise floor for that many tokens. Layers are averaged within each run.
    Raises: ValueError for no arms, an arm without runs, or any other kind.
    """
    if not names or kind not in ("global", "batch"):
        raise ValueError(f"names: at least one arm, kind: global or batch expected, got {kind!r}")
    rows = {}
    for arm, name in names.items():
        found = [fmean(run["max_violation"][kind]) for run in runs if run["arm"] == arm]
        rows[name] = mean_interval(found)
    figure = new_figure("", height=130 + 36 * len(rows), margin_r=130, margin_t=30)
    figure.add_scatter(
        x=[row.mean for row in rows.values()], y=list(rows), mode="markers", name="mean",
        marker={"size": 10, "color": OKABE_ITO[0]}, showlegend=False,
        error_x={"array": [row.half for row in rows.values()], "thickness": 2, "width": 6},
    )  # fmt: skip
    figure.add_vline(
        floor, line={"color": QUIET, "dash": "dot", "width": 2}, annotation_position="top",
        annotation_text=f"noise floor {floor:.2f}", annotation_font_color=QUIET,
    )  # fmt: skip
    for name, row in rows.items():
        figure.add_annotation(
            x=1.01, xref="paper", xanchor="left", y=name, showarrow=False,
            text=f"{row.mean:.2f} ± {row.half:.2f}",
        )  # fmt: skip
    scope = "whole validation text" if kind == "global" else "one training batch"
    figure.update_xaxes(title_text=f"MaxVio of the {scope}, 95 % interval", rangemode="tozero")
    figure.update_yaxes(autorange="reversed")
    said = ", ".join(f"{name} {row.mean:.2f} ± {row.half:.2f}" for name, row in rows.items())
    set_summary(figure, f"MaxVio of the {scope}: {said}; chance {floor:.2f}.")
    return figure
