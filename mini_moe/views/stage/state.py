"""The stage's state, without widgets: the changes to a model and their effects."""

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from mini_moe.arguments import number, whole
from mini_moe.model import Transformer
from mini_moe.routing import RoutingTrace, intervene, trace_routing
from mini_moe.routing.intervene import OFF, moe_layers
from mini_moe.views.stepper import RoutingSteps, routing_steps

Place = tuple[int, int]  # (layer of the model, expert)


@dataclass(frozen=True)
class Changes:
    """How the model differs from the one that was loaded."""

    off: frozenset[Place] = frozenset()  # experts no token may choose
    shared_off: frozenset[int] = frozenset()  # layers without their shared experts
    bias: dict[Place, float] = field(default_factory=dict)  # added to an expert's own bias
    temperature: float = 1.0  # divides the routers' logits
    top_k: int | None = None  # experts per token; None: as trained

    def switch(self, place: Place, off: bool) -> "Changes":
        """Return a copy with one expert switched off or on."""
        return replace(self, off=self.off | {place} if off else self.off - {place})

    def switch_shared(self, layer: int, off: bool) -> "Changes":
        """Return a copy with one layer's shared experts switched off or on."""
        shared = self.shared_off | {layer} if off else self.shared_off - {layer}
        return replace(self, shared_off=shared)

    def push(self, place: Place, bias: float) -> "Changes":
        """Return a copy with one expert's bias shifted; 0 leaves it as trained."""
        bias = number("bias", bias)
        others = {at: value for at, value in self.bias.items() if at != place}
        return replace(self, bias=others | ({place: bias} if abs(bias) > 1e-6 else {}))

    def arguments(self, n_experts: int) -> dict[str, Any]:
        """Return the arguments for `intervene`."""
        bias: dict[int, list[float]] = {}
        for (layer, expert), value in self.bias.items():
            bias.setdefault(layer, [0.0] * n_experts)[expert] = value
        return {"off": self.off, "shared_off": self.shared_off, "bias": bias, "top_k": self.top_k,
                "temperature": self.temperature}  # fmt: skip

    def __str__(self) -> str:
        """Describe the changes: "layer 3: expert 10 off · temperature 2"."""
        parts = [f"layer {layer}: expert {expert} off" for layer, expert in sorted(self.off)]
        parts += [f"layer {layer}: shared expert off" for layer in sorted(self.shared_off)]
        parts += [
            f"layer {layer}: bias of expert {expert} {value:+.2f}"
            for (layer, expert), value in sorted(self.bias.items())
        ]
        parts += [f"temperature {self.temperature:g}"] if self.temperature != 1 else []
        parts += [f"{self.top_k} experts a token"] if self.top_k else []
        return " · ".join(parts)


UNTOUCHED = Changes()


@dataclass(frozen=True)
class Moment:
    """One text run through the untouched and the changed model."""

    before: RoutingTrace
    after: RoutingTrace
    changes: Changes
    inputs: dict[int, Float[Tensor, "tokens d_model"]]  # input of each changed MoE layer

    def place(self, layer: int, expert: int) -> Place:
        """Check a layer and an expert and return them. Raises: ValueError unless both exist."""
        layer = whole("layer", layer)
        if layer not in self.after.layers:
            raise ValueError(f"layer={layer} must be one of {list(self.after.layers)}")
        return layer, whole("expert", expert, 0, self.after.n_experts - 1)


def run_moment(
    model: Transformer, ids: list[int], changes: Changes, before: RoutingTrace | None = None
) -> Moment:
    """Run the model with the changes, and untouched unless `before` is given.

    Raises: ValueError for changes that leave too few experts, like `intervene`.
    """
    inputs: dict[int, Tensor] = {}
    before = trace_routing(model, ids) if before is None else before
    with intervene(model, **changes.arguments(before.n_experts)) as changed:
        for layer, moe in moe_layers(changed).items():
            moe.register_forward_pre_hook(_keep_input(inputs, layer))  # `model` itself gets no hook
        after = trace_routing(changed, ids)
    return Moment(before, after, changes, inputs)


def _keep_input(inputs: dict[int, Tensor], layer: int) -> Any:
    def hook(module: Any, arguments: tuple) -> None:
        inputs[layer] = arguments[0].detach().flatten(0, 1)

    return hook


def moment_steps(moment: Moment, model: Transformer, layer: int, token: int) -> RoutingSteps:
    """Return a token's steps from logits to gates in the changed model; −10⁶ means switched off.

    Recomputed from the recorded logits, with the bias and top-k that the model used.
    """
    gate, changes = moe_layers(model)[layer].gate, moment.changes
    logits = moment.after.router_logits[moment.after.layers.index(layer), token].float()
    own = gate.e_score_correction_bias
    bias = torch.zeros_like(logits) if own is None else own.clone()
    for (at, expert), value in changes.bias.items():
        bias[expert] += value if at == layer else 0
    for at, expert in changes.off:
        bias[expert] += OFF if at == layer else 0
    config = replace(gate.config, top_k=changes.top_k or gate.config.top_k)
    return routing_steps(logits, bias, config)


class Mix(NamedTuple):
    """The norm of each expert's contribution to one token: ‖gate · expert(x)‖."""

    routed: Float[Tensor, "experts"]  # NaN for experts not chosen
    shared: float  # ‖shared(x)‖; 0 if there are none or they are off


@torch.no_grad()
def moment_mix(moment: Moment, model: Transformer, layer: int, token: int) -> Mix:
    """Return the norms of the contributions that one layer sums for one token."""
    place, moe = moment.after.layers.index(layer), moe_layers(model)[layer]
    x = moment.inputs[layer][token : token + 1]
    routed = torch.full((moment.after.n_experts,), float("nan"))
    chosen = moment.after.expert_ids[place, token]
    for expert, gate in zip(chosen, moment.after.gates[place, token], strict=True):
        answer = moe.experts(x, expert.reshape(1, 1), gate.reshape(1, 1).to(x.dtype))
        routed[expert] = answer.norm()
    shared = 0.0
    if moe.shared_experts is not None and layer not in moment.changes.shared_off:
        shared = float(moe.shared_experts(x).norm())
    return Mix(routed, shared)


class Prospect(NamedTuple):
    """One possible next token, with its probability in the untouched and the changed model."""

    token: int
    piece: str
    before: float
    after: float


def prospects(
    moment: Moment, model: Transformer, position: int, count: int = 6
) -> list[Prospect]:  # fmt: skip
    """Return the tokens likeliest in either model after one position, sorted by the untouched."""
    before, after = (
        trace.logits[position].float().softmax(-1) for trace in (moment.before, moment.after)
    )
    best = torch.maximum(before, after).topk(count).indices.tolist()
    pieces = model.tokenizer.pieces(best)
    rows = [Prospect(token, piece, float(before[token]), float(after[token]))
            for token, piece in zip(best, pieces, strict=True)]  # fmt: skip
    return sorted(rows, key=lambda row: -row.before)


def effect(model: Transformer, text: str, changes: Changes) -> str:
    """Say what the changes do to the token after a text: "·time 84 % → 2 %, now ·child 64 %".

    Raises: ValueError for an empty text or impossible changes.
    """
    moment = run_moment(model, model.tokenizer.encode(text), changes)
    rows = prospects(moment, model, -1)
    best, now = rows[0], max(rows, key=lambda row: row.after)
    lead = "" if now.token == best.token else f", now {now.piece} {percent(now.after)}"
    return f"{best.piece} {percent(best.before)} → {percent(best.after)}{lead}"


def percent(share: float) -> str:
    """Format "42 %", or "<1 %" if it would round to zero."""
    return "<1 %" if share < 0.005 else f"{100 * share:.0f} %"


class Switch(NamedTuple):
    """The effect of one knock-out on the likeliest next token."""

    layer: int
    expert: int
    piece: str
    before: float
    after: float


def strongest_switches(
    model: Transformer, text: str | list[int], count: int = 5, position: int = -1
) -> list[Switch]:
    """Return the experts whose absence costs the likeliest next token most, by trying them all.

    This runs the model once per expert.
    Raises: ValueError for an empty text, a model without experts, or a position outside the text.
    """
    count = whole("count", count, 1)
    before = trace_routing(model, text)
    position = whole("position", position, -len(before.tokens), len(before.tokens) - 1)
    ids = before.tokens.tolist()
    probabilities = before.logits[position].float().softmax(-1)
    best = int(probabilities.argmax())
    piece, tried = model.tokenizer.pieces([best])[0], []
    for layer in before.layers:
        for expert in range(before.n_experts):
            with torch.no_grad(), intervene(model, off={(layer, expert)}) as changed:
                logits = changed(before.tokens.new_tensor([ids]))[0, position]
            after = float(logits.float().softmax(-1)[best])
            tried.append(Switch(layer, expert, piece, float(probabilities[best]), after))
    return sorted(tried, key=lambda switch: switch.after)[:count]
