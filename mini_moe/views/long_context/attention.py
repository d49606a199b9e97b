"""Where a question looks: the attention of a text's last token over the whole text."""

from collections.abc import Mapping

import plotly.graph_objects as go
import torch
from einops import rearrange
from jaxtyping import Float, Int
from plotly.subplots import make_subplots
from torch import Tensor

from mini_moe.experiments.needle import NeedleExample
from mini_moe.model import Transformer
from mini_moe.routing.twin import twin
from mini_moe.text import Tokenizer
from mini_moe.views.style import OKABE_ITO, QUIET, new_figure, set_summary


@torch.no_grad()
def last_attention(
    model: Transformer, tokens: Int[Tensor, "seq"]
) -> Float[Tensor, "layers heads seq"]:
    """Return the attention of the last token to every token, in each layer and head.

    Recomputed from the inputs of each attention module: softmax(scale · q kᵀ) of the last query.
    """
    rows = []

    def record(module, given) -> None:
        x, rotation = given[:2]
        query = rearrange(module.query(x[:, -1:], rotation[-1:]), "b new h d -> b h new d")
        keys, _ = module.expand(*module.compress(x, rotation))
        scores = module.scale * query @ keys.transpose(-1, -2)
        rows.append(scores[0, :, 0].float().softmax(dim=-1))

    watched = twin(model)  # the model itself gets no hooks
    for layer in watched.layers:
        layer.self_attn.register_forward_pre_hook(record)
    watched.hidden(tokens[None])
    return torch.stack(rows)


def needle_span(example: NeedleExample, tokenizer: Tokenizer) -> range:
    """Return the positions of the needle's tokens.

    Raises: ValueError if the text doesn't contain it.
    """
    wanted = tokenizer.encode(f"{example.needle}\n")
    tokens = example.tokens.tolist()
    for start in range(len(tokens) - len(wanted) + 1):
        if tokens[start : start + len(wanted)] == wanted:
            return range(start, start + len(wanted))
    raise ValueError(f"example: its text does not contain {example.needle!r}")


def attention_lines(
    attention: Mapping[str, Float[Tensor, "layers heads seq"]], needle: range, *,
    head: tuple[int, int] | None = None, title: str = "",
) -> go.Figure:  # fmt: skip
    """Draw one panel per model: one head's attention per position; an orange band marks the needle.

    `head` is (layer, head); by default the one in the last model that attends most to the needle.
    Raises: ValueError without any attention.
    """
    if not attention:
        raise ValueError("attention: at least one model expected")
    on_needle = {name: shares[..., needle.start : needle.stop].sum(-1)
                 for name, shares in attention.items()}  # fmt: skip
    layer, place = head or best_head(list(on_needle.values())[-1])
    titles = [f"{name}: {shares[layer, place]:.1%} on the needle"
              for name, shares in on_needle.items()]  # fmt: skip
    figure = make_subplots(
        len(attention), 1, shared_xaxes=True, vertical_spacing=0.1, subplot_titles=titles
    )
    for row, (name, shares) in enumerate(attention.items(), start=1):
        line = shares[layer, place].tolist()
        figure.add_scatter(
            x=[n for n in range(len(line)) for _ in range(3)],
            y=[y for share in line for y in (0, share, None)],
            mode="lines", line={"color": OKABE_ITO[0], "width": 1.5}, name=name, row=row, col=1,
            hovertemplate="position %{x}: %{y:.1%}<extra></extra>",
        )  # fmt: skip
        figure.add_vrect(
            x0=needle.start - 4, x1=needle.stop + 3, fillcolor=OKABE_ITO[1], opacity=0.35,
            line_width=0, layer="below", row=row, col=1,
        )  # fmt: skip
    base = new_figure("", width=800, height=100 + 130 * len(attention), title_text=title)
    figure.update_layout(base.layout)
    figure.update_layout(showlegend=False, margin={"t": 90 if title else 40, "b": 55})
    figure.update_annotations(x=0, xanchor="left", font_size=14)
    figure.update_xaxes(title_text="position in the text", row=len(attention), col=1)
    figure.update_yaxes(rangemode="tozero", tickformat=".0%", nticks=4)
    figure.update_yaxes(gridcolor="#EEEEEE", linecolor=QUIET)
    set_summary(
        figure,
        f"Layer {layer}, head {place}: the needle's share of the last token's attention is "
        + ", ".join(f"{shares[layer, place]:.1%} ({name})" for name, shares in on_needle.items())
        + ".",
    )
    return figure


def best_head(on_needle: Float[Tensor, "layers heads"]) -> tuple[int, int]:
    """Return the layer and head with the largest share."""
    return divmod(int(on_needle.argmax()), on_needle.shape[1])
