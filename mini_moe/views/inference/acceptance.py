"""How often proposals are accepted, and how many tokens per pass that yields."""

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from mini_moe.experiments.statistics import share_interval
from mini_moe.inference.speculative import Speculation
from mini_moe.views.style import DASHES, OKABE_ITO, QUIET, SYMBOLS, new_figure


def acceptance_bars(
    told: Mapping[str, Speculation],
    title: str = "",
    published: Mapping[str, tuple[float, float]] | None = None,
) -> go.Figure:
    """Draw each name's acceptance rate, with 95 % intervals, counts and tokens per pass.

    `published` maps names to (low, high) rates reported elsewhere, drawn as labelled bands.

    Intervals are Wilson's and treat proposals as independent draws. Tokens of one text are not
    quite independent, so the true intervals are somewhat wider.
    Raises: ValueError without names, or if nothing was proposed.
    """
    counts = {name: counted(speculation) for name, speculation in told.items()}
    if not counts or not all(proposed for _, proposed in counts.values()):
        raise ValueError("told: at least one name, each with proposals, expected")
    rates = {name: accepted / proposed for name, (accepted, proposed) in counts.items()}
    best, worst = max(rates, key=rates.__getitem__), min(rates, key=rates.__getitem__)
    everything = Speculation([one for each in told.values() for one in each.rounds])
    figure = new_figure(
        f"Accepted: {best} {rates[best]:.0%}, {worst} {rates[worst]:.0%}, all together "
        f"{everything.acceptance:.0%} or {everything.tokens_per_pass:.2f} tokens per pass.",
        width=800, height=150 + 44 * len(rates), title_text=title, margin_r=230,
    )  # fmt: skip
    ends = {name: share_interval(*counts[name]) for name in rates}
    figure.add_bar(
        x=list(rates.values()), y=list(rates), orientation="h", name="accepted",
        marker_color=OKABE_ITO[0],
        error_x={
            "type": "data", "symmetric": False, "color": "#444444",
            "array": [ends[name][1] - rate for name, rate in rates.items()],
            "arrayminus": [rate - ends[name][0] for name, rate in rates.items()],
        },
    )  # fmt: skip
    for name in rates:
        figure.add_annotation(
            x=1.01, xref="paper", xanchor="left", y=name, showarrow=False,
            text="{:,} of {:,}: ".format(*counts[name])
            + f"{told[name].tokens_per_pass:.2f} tokens per pass",
        )  # fmt: skip
    for name, (low, high) in (published or {}).items():
        figure.add_vrect(x0=low, x1=high, fillcolor=QUIET, opacity=0.25, line_width=0)
        figure.add_annotation(
            x=(low + high) / 2, y=1, yref="paper", yanchor="bottom", showarrow=False, text=name
        )
    figure.update_xaxes(
        title_text="proposals accepted (95 % intervals)", range=[0, 1], tickformat=".0%"
    )
    figure.update_yaxes(autorange="reversed")
    return figure


def counted(told: Speculation) -> tuple[int, int]:
    """Count accepted and proposed tokens."""
    accepted = sum(one.accepted for one in told.rounds)
    return accepted, sum(len(one.proposed) for one in told.rounds)


def tokens_curves(
    expected: Mapping[str, Sequence[int | float]],
    measured: Sequence[int | float] = (),
    *,
    title: str = "",
) -> go.Figure:
    """Draw tokens per pass against proposals per pass, 0, 1, 2 …: theory as lines, data as points.

    Raises: ValueError without lines.
    """
    if not expected:
        raise ValueError("expected: at least one line expected")
    longest = max(len(line) for line in (*expected.values(), measured))
    words = ", ".join(f"{ahead} ahead {value:.2f}" for ahead, value in enumerate(measured))
    told = f"Measured: {words}." if words else "Theory only."
    figure = new_figure(
        told, width=780, height=400, title_text=title, margin_r=190, showlegend=False
    )
    for n, (name, line) in enumerate(expected.items()):
        figure.add_scatter(
            x=list(range(len(line))), y=list(line), name=name, mode="lines",
            line={"color": OKABE_ITO[n % 7], "dash": DASHES[n % 8], "width": 2},
        )  # fmt: skip
        figure.add_annotation(
            x=1.015, xref="paper", xanchor="left", y=line[-1], text=name, showarrow=False,
            font={"color": OKABE_ITO[n % 7]},
        )  # fmt: skip
    if measured:
        figure.add_scatter(
            x=list(range(len(measured))), y=list(measured), name="measured",
            mode="markers+text", text=[f"{value:.2f}" for value in measured],
            textposition="bottom right",
            marker={"symbol": SYMBOLS[2], "size": 11, "color": "#222222"},
        )  # fmt: skip
    figure.update_xaxes(title_text="proposals per pass", dtick=1, range=[-0.2, longest - 0.6])
    figure.update_yaxes(title_text="tokens per pass", rangemode="tozero")
    return figure
