"""The stage's widgets, without their behaviour."""

import json
from typing import Any

from mini_moe.text import data_folder
from mini_moe.views.stage.chips import Chips
from mini_moe.views.stage.state import Changes

NO_PROMPT = "prepared prompts …"
TITLES = {"code": "code", "docs": "documentation", "stories_en": "story (English)",
          "stories_de": "story (German)", "math": "sums", "tables": "tables"}  # fmt: skip

LARGE = """<style>
.moe-stage .widget-label, .moe-stage .widget-readout, .moe-stage textarea, .moe-stage select,
.moe-stage button { font-size: 22px !important; }
.moe-stage .widget-label { width: auto !important; }
.moe-stage .widget-slider { width: 520px !important; height: 44px !important; }
.moe-stage .widget-readout { min-width: 90px !important; }
.moe-stage button, .moe-stage select { height: 44px !important; line-height: 40px !important; }
.moe-stage .widget-html-content { font-size: 22px !important; line-height: 1.3 !important; }
</style>"""


def prepared_prompts(prompts: dict[str, list[str]] | None = None) -> list[tuple[str, str]]:
    """Return (label, text) of every prepared prompt, by domain; None reads data/prompts.json."""
    if prompts is None:
        prompts = json.loads((data_folder() / "prompts.json").read_text("utf-8"))
    choices = [(NO_PROMPT, "")]
    for domain, texts in prompts.items():
        for text in texts:
            line = " ".join(text.split())
            label = line if len(line) <= 44 else line[:43] + "…"
            choices.append((f"{TITLES.get(domain, domain)}: {label}", text))
    return choices


class Controls:
    """Every widget of the stage; `view` arranges them."""

    def __init__(
        self, layers: tuple[int, ...], n_experts: int, top_k: int, n_steps: int, records: int,
        prompts: dict[str, list[str]] | None, text: str,
    ) -> None:  # fmt: skip
        import ipywidgets as widgets

        def slider(kind: str, description: str, width: str = "270px", **named: Any) -> Any:
            return getattr(widgets, kind)(
                description=description, layout={"width": width},
                style={"description_width": "initial"}, **named,
            )  # fmt: skip

        self.prompt = widgets.Dropdown(
            options=prepared_prompts(prompts), description="Prompt", layout={"width": "340px"}
        )
        self.text = widgets.Textarea(
            value=text, description="Text", rows=2, layout={"width": "98%", "max_width": "1060px"}
        )
        self.layer = slider("SelectionSlider", "Layer", options=list(layers))
        self.temperature = slider("FloatLogSlider", "Temperature", value=1.0, base=2, min=-3, max=3,
                                  step=0.5, readout_format=".2f")  # fmt: skip
        self.top_k = slider(
            "IntSlider", "Experts a token", value=top_k, min=1, max=min(8, n_experts)
        )
        self.bias = slider("FloatSlider", "Bias", value=0.0, min=-0.5, max=0.5, step=0.02,
                           readout_format="+.2f", width="250px")  # fmt: skip
        self.step = slider("IntSlider", "Step", value=n_steps, min=1, max=n_steps, width="420px")
        self.record = slider("IntSlider", "Log record", value=max(0, records - 1), min=0,
                             max=max(1, records - 1), readout=False, width="560px")  # fmt: skip
        self.play = widgets.Play(value=self.record.value, min=0, max=self.record.max, step=2,
                                 interval=120, description="replay")  # fmt: skip
        widgets.jslink((self.play, "value"), (self.record, "value"))
        wide = {"width": "auto", "min_width": "8em"}
        toggle = widgets.ToggleButton
        fixed = wide | {"min_width": "17em"}  # fits "on" and "off": nothing may shift
        self.off = toggle(description="Switch expert off", icon="power-off", layout=fixed)
        self.shared = toggle(description="Switch shared expert off", icon="power-off", layout=fixed)
        self.find = widgets.Button(
            description="Find the strongest switch", icon="search", layout=wide,
            tooltip="Tries switching off each expert and selects the one that matters most here",
        )  # fmt: skip
        self.reset = widgets.Button(description="Reset the model", icon="undo", layout=wide)
        self.large = toggle(description="Presentation size", icon="expand", layout=wide)
        self.tables = toggle(description="Tables", icon="table", layout=wide)
        self.tokens, self.experts = Chips(layout={"flex": "1 1 320px"}), Chips()
        names = ("remark", "error", "status", "next", "summary", "steps", "table", "replayed",
                 "replay_table", "sizes")  # fmt: skip
        for name in names:
            setattr(self, name, widgets.HTML())

    def follow(
        self, text: str, layer: int, expert: int, changes: Changes, trained_top_k: int
    ) -> None:
        """Set every control to match the selection and the changes."""
        self.text.value, self.layer.value = text, layer
        if self.prompt.value not in ("", text):
            self.prompt.value = ""  # so the same prompt can be chosen again
        self.off.value = (layer, expert) in changes.off
        self.shared.value = layer in changes.shared_off
        self.bias.value = changes.bias.get((layer, expert), 0.0)
        self.temperature.value = changes.temperature
        self.top_k.value = changes.top_k or trained_top_k
        self.bias.description = f"Bias of expert {expert}"
        self.off.description = f"Switch expert {expert} {'on' if self.off.value else 'off'}"
        self.shared.description = f"Switch shared expert {'on' if self.shared.value else 'off'}"

    def enlarge(self, large: bool) -> None:
        """Switch all controls and chips to presentation size, or back."""
        self.tokens.large = self.experts.large = self.large.value = large
        self.sizes.value = LARGE if large else ""

    def view(self, picture: Any, replay: Any | None) -> Any:
        """Arrange everything in one column, from the text down to the training replay."""
        import ipywidgets as widgets

        def line(*children: Any, **named: Any) -> Any:
            row = {"flex_flow": "row wrap", "align_items": "center", "overflow": "visible"}
            return widgets.Box(children, layout=row | named)

        steps = widgets.VBox([self.step, self.steps])
        left = widgets.VBox([picture, self.summary, self.table])
        parts = [
            self.sizes,
            line(self.prompt, self.reset, self.large, self.tables),
            self.text,
            line(self.layer, self.top_k, self.temperature),
            self.experts,
            line(self.off, self.bias, self.shared, self.find),
            self.status, self.remark, self.error,
            line(self.tokens, self.next, align_items="flex-start"),
            line(left, steps, align_items="flex-start"),
        ]  # fmt: skip
        if replay is not None:
            parts += [line(self.play, self.record), replay, self.replayed, self.replay_table]
        box = widgets.VBox(parts)
        box.add_class("moe-stage")
        return box
