"""One token's routing, step by step, with the numbers for every expert."""

import html
from typing import Any, NamedTuple

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor

from mini_moe.config import ModelConfig
from mini_moe.model.router import allowed_experts, route
from mini_moe.routing import RoutingTrace
from mini_moe.routing.intervene import OFF
from mini_moe.views.sentence import layer_place
from mini_moe.views.style import Html, safe_callback

STEPS = (
    "The router's logits",
    "Scores: the {score_function} of the logits",
    "Plus the bias, used only for the choice",
    "Groups: only experts in the best {top_k_groups} of {n_expert_groups} may be chosen",
    "The {top_k} best allowed experts are chosen",
    "Their scores without the bias{normalised}",
    "Times route_scale = {route_scale}: the gates",
)
MIXED = "The chosen experts' outputs times their gates, summed: the length of each term"


class RoutingSteps(NamedTuple):
    """Every number from logits to gates, per expert; NaN where a step leaves nothing."""

    logits: Tensor
    scores: Tensor
    biased: Tensor
    groups: Tensor  # score of the expert's group; NaN if there is only one group
    allowed: Tensor  # True inside the chosen groups
    rank: Tensor  # 1 for the best choice, 0 for experts not chosen
    shares: Tensor  # chosen scores, divided by their sum if the configuration says so
    gates: Tensor


def routing_steps(
    logits: Float[Tensor, "experts"], expert_bias: Float[Tensor, "experts"] | None,
    config: ModelConfig,
) -> RoutingSteps:  # fmt: skip
    """Route one token and keep the result of every step."""
    routing = route(logits[None], expert_bias, config)
    scores, ids, gates = routing.scores[0], routing.expert_ids[0], routing.gates[0]
    biased = scores if expert_bias is None else scores + expert_bias
    n_groups = config.n_expert_groups
    grouped = rearrange(biased, "(g e) -> g e", g=n_groups)
    best = min(2 if config.group_score == "top2_sum" else 1, grouped.shape[1])
    worth = repeat(grouped.topk(best).values.sum(-1), "g -> (g e)", e=grouped.shape[1])
    if n_groups == 1:
        worth = torch.full_like(scores, float("nan"))
    allowed = torch.ones_like(scores, dtype=torch.bool)
    if n_groups > 1:
        allowed = allowed_experts(biased[None], config)[0]
    rank = torch.zeros(len(scores), dtype=torch.long)
    rank[ids] = torch.arange(1, len(ids) + 1)
    shares, gate = torch.full_like(scores, float("nan")), torch.full_like(scores, float("nan"))
    shares[ids], gate[ids] = gates / config.route_scale, gates
    return RoutingSteps(logits, scores, biased, worth, allowed, rank, shares, gate)


def token_steps(trace: RoutingTrace, token: int, layer: int | None, model: Any) -> RoutingSteps:
    """Return the steps of one token of a trace, from the router's recorded logits."""
    place = layer_place(trace, layer)
    bias = model.layers[trace.layers[place]].mlp.gate.e_score_correction_bias
    return routing_steps(trace.router_logits[place, token].float(), bias, trace.config)


def step_titles(config: ModelConfig) -> list[str]:
    """Describe what happens in each step, with the configuration's numbers."""
    titles = list(STEPS)
    normalised = ", divided by their sum" if config.norm_topk_prob else ""
    if config.n_expert_groups == 1:
        titles[3] = "Only one group: every expert may be chosen"
    fields = {name: getattr(config, name) for name in config.__dataclass_fields__}
    return [title.format(normalised=normalised, **fields) for title in titles]


def step_routing(
    steps: RoutingSteps, config: ModelConfig, step: int = len(STEPS), *,
    mixed: Float[Tensor, "experts"] | None = None, shared: float | None = None,
    before: str = "", font: int = 13,
) -> Html:  # fmt: skip
    """Show a table of the first `step` steps: experts as rows, the newest column marked.

    Excluded experts are grey, chosen ones bold. `mixed`, the length of each expert's
    contribution, adds an eighth step; `shared` is the length of the shared experts' contribution.
    The text starts with `before`; `font` is the font size in pixels.
    Raises: ValueError for a step that does not exist.
    """
    last = len(STEPS) + (mixed is not None)
    if not 1 <= step <= last:
        raise ValueError(f"step={step}: 1 to {last} expected")
    columns = (
        ("logit", steps.logits), ("score", steps.scores), ("+ bias", steps.biased),
        ("group", steps.groups), ("rank", steps.rank), ("share", steps.shares),
        ("gate", steps.gates), ("length", mixed),
    )[:step]  # fmt: skip
    head = "".join(_cell("th", name, new=n == step - 1) for n, (name, _) in enumerate(columns))
    rows = []
    for expert in range(len(steps.logits)):
        style = _row_style(steps, expert, step)
        cells = [_cell("td", _shown(v[expert]), n == step - 1) for n, (_, v) in enumerate(columns)]
        rows.append(f'<tr style="{style}">{_cell("th", f"expert {expert}")}{"".join(cells)}</tr>')
    if shared is not None and step > len(STEPS):
        blank = _cell("td", "") * len(STEPS)
        rows.append(f"<tr>{_cell('th', 'shared')}{blank}{_cell('td', f'{shared:.3f}', True)}</tr>")
    text = before + _step_text(steps, config, step, last)
    body = (
        f'<div style="font-size:{font + 2}px;line-height:1.3;margin-bottom:4px">'
        f"<b>{html.escape(text)}</b></div>"
        f'<table style="border-collapse:collapse;line-height:1.35;font-size:{font}px;'
        'font-variant-numeric:tabular-nums">'
        f"<thead><tr>{_cell('th', '')}{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )
    return Html(body, text)


def _step_text(steps: RoutingSteps, config: ModelConfig, step: int, last: int) -> str:
    titles = [*step_titles(config), MIXED]
    text = f"Step {step} of {last}. {titles[step - 1]}."
    if step >= 5:
        text += f" Chosen: {', '.join(map(str, _chosen(steps)))}."
    if step == len(STEPS):
        text += f" The gates sum to {float(steps.gates.nansum()):.3f}."
    return text


def _chosen(steps: RoutingSteps) -> list[int]:
    """Return the chosen experts, best first."""
    order = [(int(rank), expert) for expert, rank in enumerate(steps.rank) if rank]
    return [expert for _, expert in sorted(order)]


def _row_style(steps: RoutingSteps, expert: int, step: int) -> str:
    if step >= 5 and steps.rank[expert]:
        return "font-weight:600;background:#FFF0D6;color:#000"
    if step >= 4 and not steps.allowed[expert]:
        return "opacity:0.45;text-decoration:line-through"
    return "opacity:0.7" if step >= 5 else ""


def _cell(tag: str, text: str, new: bool = False) -> str:
    frame = "border-left:2px solid #D55E00;border-right:2px solid #D55E00;" if new else ""
    return f'<{tag} style="{frame}padding:2px 10px;text-align:right">{text}</{tag}>'


def _shown(value: Tensor) -> str:
    number = value.item()
    if isinstance(number, int):
        return f"{number}." if number else ""
    if number <= OFF / 2:
        return "off"
    return "" if number != number else f"{number:.3f}"


class RoutingStepper:
    """A slider that walks through the steps of one token, forwards and backwards (`view`).

    If `drag` is an expert's number, a second slider moves that expert's bias.
    """

    def __init__(
        self, logits: Float[Tensor, "experts"], expert_bias: Float[Tensor, "experts"] | None,
        config: ModelConfig, step: int = 1, drag: int | None = None,
    ) -> None:  # fmt: skip
        import ipywidgets as widgets

        self.logits, self.expert_bias, self.config, self.drag = logits, expert_bias, config, drag
        wide = {"width": "360px"}
        self.slider = widgets.IntSlider(
            value=step, min=1, max=len(STEPS), description="Step", layout=wide
        )
        start = 0.0 if drag is None or expert_bias is None else round(float(expert_bias[drag]), 4)
        self.bias = widgets.FloatSlider(
            value=start, min=-1, max=1, step=0.05, description=f"Bias of {drag}", layout=wide
        )
        self.table, self.error = widgets.HTML(), widgets.HTML()
        redraw = safe_callback(self.error)(lambda change: self._draw())
        controls = [self.slider] if drag is None else [self.slider, self.bias]
        for control in controls:
            control.observe(redraw, names="value")
        self.view = widgets.VBox([*controls, self.error, self.table])
        self._draw()

    @property
    def steps(self) -> RoutingSteps:
        """Every number from logits to gates, with the bias set by the slider."""
        bias = self.expert_bias
        if self.drag is not None:
            bias = torch.zeros(len(self.logits)) if bias is None else bias.clone()
            bias[self.drag] = self.bias.value
        return routing_steps(self.logits, bias, self.config)

    def _still(self, step: int) -> Html:
        return step_routing(self.steps, self.config, step)

    def _draw(self) -> None:
        self.table.value = self._still(self.slider.value).html

    def __repr__(self) -> str:
        moved = "" if self.drag is None else f"Bias of {self.drag}: {self.bias.value:.2f}. "
        return moved + self._still(self.slider.value).text

    def _repr_mimebundle_(self, **named: Any) -> dict[str, Any]:
        """Return the widgets, with the table after all steps for readers without them."""
        bundle = self.view._repr_mimebundle_(**named) or {}
        return bundle | {"text/html": self._still(len(STEPS)).html, "text/plain": repr(self)}
