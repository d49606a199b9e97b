"""The tokens that choose each expert most reliably."""

from collections.abc import Sequence

import plotly.graph_objects as go

from mini_moe.routing.measures import LabelCounts
from mini_moe.views.experts.heatmaps import around
from mini_moe.views.style import new_figure


def word_map(
    counts: LabelCounts, pieces: Sequence[str], layer: int = 0, *, at_least: int = 10,
    count: int = 8, title: str = "",
) -> go.Figure:  # fmt: skip
    """Draw, for each expert (row), the tokens that choose it most reliably, best first.

    `counts` are labelled by token; `pieces` is the text of each. Tokens seen fewer than `at_least`
    times are left out; ties go to the more frequent token. Colour is the share of a token's
    occurrences that choose the expert; white is chance.
    """
    if len(pieces) != len(counts.tokens):
        raise ValueError(f"pieces: {len(counts.tokens)} expected, one per token, got {len(pieces)}")
    frequent = (counts.tokens >= at_least).nonzero().flatten()
    if not len(frequent):
        raise ValueError(f"at_least={at_least}: no token occurs that often; read more text")
    shares = counts.shares[layer, frequent].double()
    rank = shares + 1e-9 * counts.tokens[frequent, None]
    count = min(count, len(frequent))
    places = rank.topk(count, dim=0).indices  # [count, experts]
    values = (100 * shares.gather(0, places).T).tolist()
    words = [[_shown(pieces[t]) for t in row] for row in frequent[places].T.tolist()]
    sure = int((shares.max(dim=1).values >= 0.9).sum())
    chance = counts.chance
    figure = new_figure(
        f"{sure} of {len(frequent)} frequent tokens choose one expert in at least 90 % of their "
        f"occurrences, where chance is {100 * chance:.0f} %.",
        width=110 + 84 * count, height=120 + 25 * len(words), title_text=title,
        margin={"l": 60, "r": 30, "t": 60 if title else 20, "b": 60},
    )  # fmt: skip
    figure.add_trace(go.Heatmap(
        z=values, x=[str(n + 1) for n in range(count)], y=[str(e) for e in range(len(words))],
        zmin=0, zmax=100, colorscale=around(chance),
        text=words, texttemplate="%{text}", xgap=1, ygap=1, textfont={"size": 12},
        hovertemplate="expert %{y}: “%{text}” %{z:.0f} %<extra></extra>",
        colorbar={"thickness": 12, "title": {"text": "%"}},
    ))  # fmt: skip
    figure.update_xaxes(title_text="rank of the token", type="category", showgrid=False)
    figure.update_yaxes(title_text="expert", type="category", autorange="reversed", showgrid=False)
    return figure


def _shown(piece: str) -> str:
    """Shorten a token to ten characters and escape it so that it isn't read as markup."""
    piece = piece if len(piece) <= 10 else piece[:9] + "…"
    return piece.replace("&", "&amp;").replace("<", "&lt;")
