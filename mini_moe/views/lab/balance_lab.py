"""Three ways to balance one model, live and side by side, with sliders for γ and α."""

import dataclasses
from typing import Any

from mini_moe.config import ModelConfig, TrainConfig
from mini_moe.views.lab.arms import AUXILIARY, LOSS_FREE, NONE, balance_arms, train_arms
from mini_moe.views.lab.chance import chance_load
from mini_moe.views.lab.lab_figure import draw_lab, empty_lab, numbers_html
from mini_moe.views.live.run import LiveRun, LiveView, run_live
from mini_moe.views.style import as_widget, safe_callback

RATES = (0.0, 0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3)  # γ
WEIGHTS = (0.0, 0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)  # α
ARMS = (NONE, AUXILIARY, LOSS_FREE)
FRAMES_PER_SECOND = 10  # of the replay


class BalanceLab(LiveView):
    """The lab's widgets (`view`): sliders for γ, α, layer and step, a figure and a table.

    During training, the sliders for γ and α take effect at the next step (`adjust`), and the
    latest step is shown; afterwards, the step slider or ▶ replays the run.
    Raises: ValueError for a model without experts.
    """

    def __init__(
        self, model_config: ModelConfig, train_config: TrainConfig, rate: float, weight: float
    ) -> None:
        import ipywidgets as widgets

        super().__init__()
        if not model_config.n_moe_layers:
            raise ValueError("model_config: a mixture of experts expected, all layers are dense")
        self.train_config = train_config
        self.logs: dict[str, list[dict[str, Any]]] = {arm: [] for arm in ARMS}
        self.chance = chance_load(
            model_config.n_routed_experts, model_config.top_k,
            train_config.batch_size * train_config.seq_len,
        )  # fmt: skip
        self.figure = as_widget(empty_lab(model_config, train_config, ARMS))
        self.numbers, self._trains = widgets.HTML(), True
        self.rate = self._number_slider("γ of the bias", RATES, rate)
        self.weight = self._number_slider("α of the loss", WEIGHTS, weight)
        layers = list(range(model_config.n_dense_layers, model_config.n_layers))
        self.layer = widgets.SelectionSlider(
            options=layers, value=layers[-1], description="Layer", layout={"width": "230px"}
        )
        steps = train_config.steps
        self.play = widgets.Play(
            min=1,
            max=steps,
            value=1,
            interval=1000 // FRAMES_PER_SECOND,
            disabled=True,
            description="Replay from step",
        )
        self.step = widgets.IntSlider(
            min=1, max=steps, value=1, description="Step", disabled=True, layout={"width": "420px"}
        )
        widgets.jslink((self.play, "value"), (self.step, "value"))
        redraw = safe_callback(self.error)(self._look)
        self.layer.observe(redraw, names="value")
        self.step.observe(redraw, names="value")
        self.view = widgets.VBox([
            widgets.HBox([self.button, self.rate, self.weight]),
            widgets.HBox([self.layer, self.step, self.play]),
            self.status, self.error, self.figure, self.numbers,
        ])  # fmt: skip

    @staticmethod
    def _number_slider(name: str, values: tuple[float, ...], value: float) -> Any:
        import ipywidgets as widgets

        options = [(f"{v:g}", v) for v in sorted({*values, value})]
        return widgets.SelectionSlider(
            options=options, value=value, description=name, layout={"width": "300px"},
            style={"description_width": "95px"},
        )  # fmt: skip

    def adjust(self, arm: str, config: TrainConfig) -> TrainConfig:
        """Return an arm's configuration for the next step, with the sliders' values."""
        changes = {
            AUXILIARY: {"balance_loss_weight": self.weight.value},
            LOSS_FREE: {"bias_update_rate": self.rate.value},
        }
        return dataclasses.replace(config, **changes.get(arm, {}))

    def update(self, record: dict[str, Any]) -> None:
        """Add one log record of an arm; redraw if the last drawing is old enough."""
        with self._lock:
            self.logs[record["arm"]].append(record)
        super().update(record)

    def show_records(self) -> None:
        """Draw the figure and table: the latest step during training, else the slider's step."""
        newest = min(map(len, self.logs.values()))  # the last step that all arms have completed
        if not newest:
            return
        if self._trains:
            self.step.value = newest
            self.status.value = self._progress(newest)
        step, place = self.step.value, self.layer.options.index(self.layer.value)
        with self.figure.batch_update():
            draw_lab(self.figure, self.logs, place, step, mark=not self._trains)
        self.numbers.value = numbers_html(self.logs, place, step, self.chance)

    def _progress(self, step: int) -> str:
        seconds, steps = self.records[-1]["seconds"], self.train_config.steps
        left = seconds / step * (steps - step)
        return f"<b>step {step} of {steps}</b>, three models · about {left:.0f} s left"

    def _look(self, change: Any) -> None:
        if change["owner"] is self.layer or not self._trains:
            self.draw()

    def finish(self, error: BaseException | None = None) -> None:
        """Show the end of the run and let the step slider replay it."""
        self.draw()
        newest = min(map(len, self.logs.values()))
        self._trains = False
        self.rate.disabled = self.weight.disabled = True
        if newest:
            self.step.max = self.play.max = newest
            self.step.disabled = self.play.disabled = False
            seconds, steps = self.records[-1]["seconds"], self.train_config.steps
            self.status.value = (
                f"<b>{newest} of {steps} steps</b> in {seconds:.0f} s · drag <i>Step</i>, or press "
                "▶, to replay them"
            )
        super().finish(error)


def balance_live(
    model_config: ModelConfig, train_config: TrainConfig, corpus: Any = None, *,
    rate: float = 0.01, weight: float = 0.01,
) -> LiveRun:  # fmt: skip
    """Show the lab and train its three arms in a thread; return immediately.

    `rate` and `weight` are the initial values of γ and α. `await` the result in the next cell to
    get {arm: TrainRun}. The Stop button ends all three runs after the current step. Without a
    browser, the same three runs are trained.
    Raises: ValueError for a model without experts, or γ or α out of range.
    """
    arms = balance_arms(train_config, rate, weight)
    lab = BalanceLab(model_config, train_config, rate, weight)
    return run_live(
        lab,
        lambda: train_arms(
            model_config, arms, corpus, adjust=lab.adjust, on_step=lab.update,
            should_stop=lab.stop.is_set,
        ),
    )  # fmt: skip
