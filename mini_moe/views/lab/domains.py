"""Which experts each domain uses, as side-by-side heatmaps."""

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots
from torch import Tensor

from mini_moe.routing import relative_load
from mini_moe.views.style import ACCENT, OKABE_ITO, new_figure, set_summary


def domain_heatmaps(
    loads: Mapping[str, Float[Tensor, "domains experts"]], domains: Sequence[str]
) -> go.Figure:
    """Draw each expert's relative load in each domain, one heatmap per name, on one scale.

    1 is an even load; blue experts are used less in that domain, orange ones more.
    Raises: ValueError without heatmaps, or if rows and domains differ in number.
    """
    if not loads or any(len(load) != len(domains) for load in loads.values()):
        sizes = {name: len(load) for name, load in loads.items()}
        raise ValueError(f"loads: one map of {len(domains)} rows per name expected, got {sizes}")
    figure = make_subplots(
        1, len(loads), subplot_titles=list(loads), shared_yaxes=True, horizontal_spacing=0.04
    )
    figure.update_layout(
        new_figure("", width=150 + 330 * len(loads), height=290, margin_t=40).layout
    )
    for column, (name, load) in enumerate(loads.items(), start=1):
        figure.add_trace(
            go.Heatmap(
                z=relative_load(load).tolist(), x=list(range(load.shape[-1])), y=list(domains),
                name=name, coloraxis="coloraxis", xgap=1, ygap=1,
            ),
            row=1, col=column,
        )  # fmt: skip
        figure.update_xaxes(title_text="expert", dtick=5, showgrid=False, row=1, col=column)
    figure.update_yaxes(autorange="reversed", showgrid=False)
    scale = [[0, OKABE_ITO[0]], [1 / 3, "#F7F7F7"], [1, ACCENT]]  # 1 is white
    bar = {"title": "load<br>(1 = even)", "thickness": 12, "tickvals": [0, 1, 2, 3]}
    bar["ticktext"] = ["0", "1", "2", "3 or more"]
    figure.update_coloraxes(colorscale=scale, cmin=0, cmax=3, colorbar=bar)
    spreads = [f"{name} {float(domain_spread(load)):.2f}" for name, load in loads.items()]
    set_summary(figure, f"Spread of the relative load over domains: {', '.join(spreads)}.")
    return figure


def domain_spread(load: Float[Tensor, "*layers domains experts"]) -> Float[Tensor, ""]:
    """Return how much an expert's relative load varies between domains, averaged over experts.

    Standard deviation over domains of load / mean load: 0 if every domain uses the experts
    alike, so that no expert belongs to any domain. This measure is our own.
    """
    return relative_load(load).std(dim=-2, correction=0).mean()
