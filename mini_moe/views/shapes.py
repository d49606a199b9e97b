"""Pictures of the model's parts: parameters, rotations, matrices."""

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
import torch
from jaxtyping import Float
from plotly.subplots import make_subplots
from torch import Tensor

from mini_moe.config import ModelConfig
from mini_moe.model import Transformer
from mini_moe.model.experts import Experts
from mini_moe.model.router import Router
from mini_moe.views.style import OKABE_ITO, new_figure, set_summary

PARTS = ("routed experts", "shared experts", "attention", "dense feed-forward", "router",
         "embedding and head", "norms")  # fmt: skip


def parameter_parts(config: ModelConfig) -> dict[str, tuple[int, int]]:
    """Count total and active parameters of each part, from the modules on the meta device."""
    with torch.device("meta"):
        model = Transformer(config)
    parts = dict.fromkeys(PARTS, (0, 0))
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if name.startswith("mtp."):
            continue
        module = model.get_submodule(name.rpartition(".")[0])
        part, total = _part_of(name, module), tensor.numel()
        active = total
        if part == "routed experts":
            active = total * config.top_k // config.n_routed_experts
        parts[part] = (parts[part][0] + total, parts[part][1] + active)
    return {part: counts for part, counts in parts.items() if counts[0]}


def _part_of(name: str, module: torch.nn.Module) -> str:
    if isinstance(module, Experts):
        return "routed experts"
    if isinstance(module, Router):
        return "router"
    if "norm" in name:
        return "norms"
    if "self_attn" in name:
        return "attention"
    if "shared_experts" in name:
        return "shared experts"
    return "dense feed-forward" if ".mlp." in name else "embedding and head"


def parameter_bars(config: ModelConfig, title: str = "") -> go.Figure:
    """Draw total and active parameters of each part, side by side."""
    parts = parameter_parts(config)
    figure = new_figure(
        _parameter_summary(parts), height=110 + 52 * len(parts), title_text=title, barmode="group",
        legend={"orientation": "h", "y": 1.02, "x": 1, "xanchor": "right", "yanchor": "bottom"},
    )  # fmt: skip
    for index, (name, colour, pattern) in enumerate(
        (("total", OKABE_ITO[5], ""), ("active for one token", OKABE_ITO[1], "/"))
    ):
        values = [counts[index] for counts in parts.values()]
        figure.add_bar(
            x=values, y=list(parts), orientation="h", name=name, text=[short(v) for v in values],
            textposition="outside", cliponaxis=False,
            marker={"color": colour, "pattern": {"shape": pattern}},
        )  # fmt: skip
    figure.update_yaxes(autorange="reversed")
    figure.update_xaxes(title_text="parameters")
    figure.update_layout(margin_r=80)
    return figure


def parameter_treemap(config: ModelConfig, title: str = "") -> go.Figure:
    """Draw areas in proportion to parameters; routed experts are split into working and idle."""
    parts = parameter_parts(config)
    labels, values, colours = [], [], []
    for n, (part, (total, active)) in enumerate(parts.items()):
        split = (("", total),)
        if active < total:
            split = ((", at work", active), (", at rest", total - active))
        for suffix, count in split:
            labels.append(f"{part}{suffix}")
            values.append(count)
            colours.append("#D9D9D9" if suffix.endswith("rest") else OKABE_ITO[n % 6])
    summary = f"{_parameter_summary(parts)} Hover over a small area for its name."
    figure = new_figure(summary, height=430, title_text=title)
    figure.add_trace(go.Treemap(
        labels=labels, values=values, parents=[""] * len(labels), marker_colors=colours,
        text=[short(v) for v in values], texttemplate="%{label}<br>%{text}<br>%{percentRoot:.1%}",
        sort=True, tiling={"pad": 2}, pathbar_visible=False,
    ))  # fmt: skip
    figure.update_layout(uniformtext={"minsize": 10, "mode": "hide"})
    figure.update_layout(margin={"l": 10, "r": 10, "t": 50 if title else 10, "b": 10})
    return figure


def _parameter_summary(parts: Mapping[str, tuple[int, int]]) -> str:
    total = sum(counts[0] for counts in parts.values())
    active = sum(counts[1] for counts in parts.values())
    largest = max(parts, key=lambda part: parts[part][0])
    return (
        f"Of {short(total)} parameters, {short(active)} ({active / total:.1%}) work on one token; "
        f"the {largest} hold {parts[largest][0] / total:.1%} of the total."
    )


def short(count: int | float) -> str:
    """Format 671,026,419,200 as "671 billion"."""
    for size, name in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million"), (1e3, "thousand")):
        if count >= size:
            return f"{count / size:.3g} {name}"
    return f"{count:.3g}"


def rope_circles(
    frequencies: Float[Tensor, "pairs"], positions: Sequence[int] = range(8)
) -> go.Figure:
    """Show where each pair of channels points at each position: one circle per pair, at most 4."""
    chosen = torch.linspace(0, len(frequencies) - 1, min(4, len(frequencies))).round().long()
    titles = [f"pair {i}: {float(frequencies[i]):.3g} rad" for i in chosen.tolist()]
    figure = make_subplots(1, len(titles), subplot_titles=titles, horizontal_spacing=0.03)
    circle = torch.linspace(0, 2 * torch.pi, 73)
    for column, pair in enumerate(chosen.tolist(), start=1):
        angles = torch.tensor(list(positions)) * frequencies[pair]
        crowded = float(frequencies[pair]) < 0.3  # the numbers would overlap
        ends = {min(positions), max(positions)}
        figure.add_scatter(
            x=circle.cos().tolist(), y=circle.sin().tolist(), mode="lines", hoverinfo="skip",
            line={"color": "#CCCCCC"}, name="circle", row=1, col=column,
        )  # fmt: skip
        figure.add_scatter(
            x=angles.cos().tolist(), y=angles.sin().tolist(), mode="markers+text",
            text=[str(p) if not crowded or p in ends else "" for p in positions],
            textposition="top center", name=f"pair {pair}",
            marker={"color": list(positions), "colorscale": "Cividis", "size": 10}, row=1,
            col=column,
        )  # fmt: skip
    base = new_figure("", width=max(320, 230 * len(titles)), height=300, showlegend=False)
    figure.update_layout(base.layout)
    figure.update_xaxes(visible=False, range=[-1.4, 1.4])
    figure.update_yaxes(visible=False, range=[-1.4, 1.4])
    for n in range(1, len(titles) + 1):
        figure.update_yaxes(scaleanchor=f"x{n if n > 1 else ''}", row=1, col=n)
    last = list(positions)[-1]
    turns = [float(frequencies[i]) * last / (2 * torch.pi) for i in (0, -1)]
    set_summary(
        figure,
        f"By position {last} the first pair has turned {turns[0]:.2f} times, the last one "
        f"{turns[1]:.2g} times.",
    )
    return figure


def matrix_heatmap(
    values: Float[Tensor, "rows columns"], *, rows: Sequence[str] | None = None,
    columns: Sequence[str] | None = None, title: str = "", row_title: str = "",
    column_title: str = "", digits: int | None = 2, summary: str = "",
) -> go.Figure:  # fmt: skip
    """Draw any matrix; up to 16 × 16 with its numbers. Masked entries (−inf, NaN) stay grey."""
    matrix = values.detach().float().cpu()
    finite = torch.isfinite(matrix)
    cells: list[list[Any]] = [
        [float(v) if ok else None for v, ok in zip(line, good, strict=True)]
        for line, good in zip(matrix, finite, strict=True)
    ]
    n_rows, n_columns = matrix.shape
    cell = max(14, min(56, 640 // max(n_columns, 1)))
    figure = new_figure(
        summary, width=190 + cell * n_columns, height=150 + min(cell, 44) * n_rows,
        title_text=title, plot_bgcolor="#DDDDDD",
    )  # fmt: skip
    show_numbers = digits is not None and max(n_rows, n_columns) <= 16
    figure.add_trace(go.Heatmap(
        z=cells, x=list(range(n_columns)), y=list(range(n_rows)), colorscale="Cividis", xgap=1,
        ygap=1, texttemplate=f"%{{z:.{digits}f}}" if show_numbers else None,
        colorbar={"thickness": 12}, hoverongaps=False,
    ))  # fmt: skip
    _label_axis(figure.update_xaxes, columns, n_columns, column_title)
    _label_axis(figure.update_yaxes, rows, n_rows, row_title)
    figure.update_yaxes(autorange="reversed")
    figure.update_layout(margin_t=60 if title else 20)
    if not summary and finite.any():
        set_summary(figure, _matrix_summary(matrix, finite, rows, columns))
    return figure


def _matrix_summary(
    matrix: Tensor, finite: Tensor, rows: Sequence[str] | None, columns: Sequence[str] | None
) -> str:
    low, high = matrix[finite].min(), matrix[finite].max()
    row, column = divmod(int(matrix.masked_fill(~finite, -torch.inf).argmax()), matrix.shape[1])
    place = f"{rows[row] if rows else row}, {columns[column] if columns else column}"
    masked = int((~finite).sum())
    hidden = f"; masked entries: {masked}" if masked else ""
    n_rows, n_columns = matrix.shape
    return (
        f"{n_rows} × {n_columns} values from {low:.3g} to {high:.3g}, the largest at "
        f"({place}){hidden}."
    )


def _label_axis(update: Any, names: Sequence[str] | None, count: int, title: str) -> None:
    update(title_text=title, showgrid=False, dtick=1 if count <= 24 else None)
    if names is not None:
        if len(names) != count:
            raise ValueError(f"names: {count} expected, got {len(names)}")
        update(tickvals=list(range(count)), ticktext=list(names))
