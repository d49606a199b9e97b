"""Needles found by length and depth: the paper's picture, for several models at once."""

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mini_moe.experiments.needle import NeedleGrid
from mini_moe.experiments.statistics import share_interval
from mini_moe.views.style import ACCENT, new_figure, set_summary

CELL = (58, 42)  # pixels, if there is room
WIDEST = 820  # pixels; JupyterLab cuts off wider figures


def needle_grids(
    grids: Mapping[str, NeedleGrid], *, trained: int | None = None, title: str = ""
) -> go.Figure:
    """Draw one heatmap per model, with found/trials in each cell and a line at `trained`.

    Raises: ValueError without grids, or for a grid whose lengths or depths differ from the first.
    """
    if not grids:
        raise ValueError("grids: at least one expected")
    first = next(iter(grids.values()))
    for name, grid in grids.items():
        if (grid.lengths, grid.depths) != (first.lengths, first.depths):
            raise ValueError(f"grids[{name!r}]: the first grid's lengths and depths expected")
    figure = make_subplots(
        1, len(grids), shared_yaxes=True, horizontal_spacing=0.03, subplot_titles=list(grids)
    )
    lengths = [length_text(length) for length in first.lengths]
    depths = [f"{depth:.0%}" for depth in first.depths]
    for column, (name, grid) in enumerate(grids.items(), start=1):
        hits = np.rint(grid.retrieved * grid.trials).astype(int)
        figure.add_heatmap(
            x=lengths, y=depths, z=grid.retrieved, zmin=0, zmax=1, coloraxis="coloraxis",
            text=[[f"{hit}/{grid.trials}" for hit in row] for row in hits],
            texttemplate="%{text}", name=name, xgap=2, ygap=2, row=1, col=column,
            hovertemplate=name + ", %{x} tokens, depth %{y}: %{text} found<extra></extra>",
        )  # fmt: skip
        _mark_trained(figure, first.lengths, trained, column)
    _lay_out(figure, title, len(grids), len(lengths), len(depths))
    parts = [f"{name}: {found_text(grid, trained)}" for name, grid in grids.items()]
    where = "" if trained is None else f"Beyond {trained:,} tokens. "
    set_summary(figure, f"{where}{'; '.join(parts)}.")
    return figure


def beyond(grid: NeedleGrid, trained: int | None) -> tuple[int, int]:
    """Count needles found and trials in all cells longer than `trained`."""
    longer = [trained is None or length > trained for length in grid.lengths]
    cells = grid.retrieved[:, longer]
    return int(np.rint(cells * grid.trials).sum()), cells.size * grid.trials


def found_text(grid: NeedleGrid, trained: int | None) -> str:
    """Format "12 of 60 found, 20% (12 to 32%)", with Wilson's 95 % interval."""
    hits, trials = beyond(grid, trained)
    if not trials:
        return "no trials"
    low, high = share_interval(hits, trials)
    return f"{hits} of {trials} found, {hits / trials:.0%} ({100 * low:.0f} to {high:.0%})"


def length_text(length: int) -> str:
    """Format a length: "768", but "2K" for 2,048."""
    return f"{length // 1024}K" if length >= 1024 and length % 1024 == 0 else f"{length}"


def _mark_trained(
    figure: go.Figure, lengths: tuple[int, ...], trained: int | None, column: int
) -> None:
    """Draw a line after the last length seen in training; cells are at x = 0, 1, 2, …"""
    known = sum(length <= (trained or 0) for length in lengths)
    if trained is None or known == len(lengths):
        return
    figure.add_vline(x=known - 0.5, line={"color": ACCENT, "width": 4}, row=1, col=column)


def _lay_out(figure: go.Figure, title: str, panels: int, columns: int, rows: int) -> None:
    base = new_figure("", width=min(WIDEST, 150 + panels * (20 + CELL[0] * columns)),
                      height=150 + CELL[1] * rows, title_text=title)  # fmt: skip
    figure.update_layout(base.layout)
    figure.update_layout(
        margin={"t": 95 if title else 50, "b": 60, "r": 90},
        coloraxis={
            "cmin": 0, "cmax": 1, "colorscale": "Cividis",
            "colorbar": {"title": "found", "tickformat": ".0%", "thickness": 14},
        },
    )  # fmt: skip
    figure.update_annotations(font_size=15)
    figure.update_xaxes(title_text="tokens", type="category", showgrid=False)
    figure.update_yaxes(type="category", autorange="reversed", showgrid=False)
    figure.update_yaxes(title_text="depth of the needle", row=1, col=1)
