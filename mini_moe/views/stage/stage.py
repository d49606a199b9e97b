"""`open_stage`: type, route, switch experts off, step through one token, replay training."""

import html
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from mini_moe.arguments import whole
from mini_moe.model import Transformer
from mini_moe.views.explorer import clip_text
from mini_moe.views.stage import panels
from mini_moe.views.stage.controls import Controls
from mini_moe.views.stage.picture import (
    DESK,
    ROOM,
    draw_moment,
    resize_picture,
    stage_picture,
    window_start,
)
from mini_moe.views.stage.replay import (
    History,
    draw_replay,
    replay_picture,
    replay_rows,
    resize_replay,
)
from mini_moe.views.stage.state import UNTOUCHED, Changes, run_moment, strongest_switches
from mini_moe.views.style import as_widget, error_html, summary_of

FIRST_TEXT = "Anna found a small key under the old tree."


def open_stage(
    model: Transformer,
    text: str = FIRST_TEXT,
    *,
    run_log: str | Path | Sequence[dict[str, Any]] | None = None,
    choices_per_step: int | None = None,
    capacity_factor: float | None = None,
    prompts: dict[str, list[str]] | None = None,
) -> "Stage":
    """Open linked views of text, token, layer and expert, backed by a model that really runs.

    run_log: a log file, its folder or its records; adds a replay of the training.
    choices_per_step: tokens · top_k of a training step; adds MaxVio by chance to the replay.
    capacity_factor: marks a capacity of this many even shares in the load.
    prompts: domain → texts; by default those of data/prompts.json.
    Raises: ValueError for a model without a tokenizer or without experts, or an empty text.
    """
    return Stage(model, text, run_log, choices_per_step, capacity_factor, prompts)


class Stage:
    """The widgets (`view`) and the selection they show: text, `token`, `layer`, `expert`."""

    def __init__(
        self, model: Transformer, text: str, run_log: Any = None,
        choices_per_step: int | None = None, capacity_factor: float | None = None,
        prompts: dict[str, list[str]] | None = None,
    ) -> None:  # fmt: skip
        if model.tokenizer is None:
            raise ValueError("model: one with a tokenizer expected; load_hf attaches one")
        ids, remark = clip_text(model, text)
        if ids is None:
            raise ValueError(f"text: {remark}")
        self.model, self.capacity_factor = model, capacity_factor
        self.history = None if run_log is None else History(run_log)
        self.changes: Changes = UNTOUCHED
        self.moment = run_moment(model, ids, UNTOUCHED)
        self.text, self.layer, self.expert = text, self.moment.after.layers[0], 0
        self.token, self._first, self.look = len(ids) - 1, 0, DESK
        self.milliseconds = 0.0  # Python's time for the last event
        self._lock, self._quiet = threading.RLock(), 0  # the thread whose events are ignored
        n_experts, layers = self.moment.after.n_experts, self.moment.after.layers
        records = 0 if self.history is None else len(self.history.steps)
        self.controls = Controls(layers, n_experts, model.config.top_k, panels.MIXED_STEP, records,
                                 prompts, text)  # fmt: skip
        # Fill figures before they become widgets: browsers drop styles set on empty traces.
        picture, self.replay = stage_picture(n_experts), None
        draw_moment(picture, self.moment, self.layer, self.token, 0, 0, DESK, capacity_factor)
        self.picture = as_widget(picture, buttons=False)
        if self.history is not None:
            replay = replay_picture(self.history, DESK, choices_per_step)
            draw_replay(replay, self.history, records - 1, 0, self.expert)
            self.replay = as_widget(replay, buttons=False)
        self.view = self.controls.view(self.picture, self.replay)
        self.controls.remark.value = remark
        self._connect()
        self._draw()
        self._draw_replay()

    def select(
        self, text: str | None = None, *, token: int | None = None, layer: int | None = None,
        expert: int | None = None,
    ) -> None:  # fmt: skip
        """Select a text, token, layer or expert; anything not given stays as it is.

        Raises: ValueError for a layer, token or expert that does not exist.
        """
        with self._lock:
            layer = self.layer if layer is None else layer
            expert = self.expert if expert is None else expert
            self.layer, self.expert = self.moment.place(layer, expert)
            if text is not None:
                self._read(text)
            n_tokens = len(self.moment.after.pieces)
            if token is not None:
                self.token = whole("token", token, -n_tokens, n_tokens - 1) % n_tokens
            self._draw()
            self._draw_replay()

    def change(self, changes: Changes) -> None:
        """Run the model with these changes; if impossible, say why and keep the old ones."""
        with self._lock:
            try:
                ids = self.moment.before.tokens.tolist()
                self.moment = run_moment(self.model, ids, changes, self.moment.before)
                self.changes, self.controls.remark.value = changes, ""
            except ValueError as error:
                self.controls.remark.value = f"Not possible: {html.escape(str(error))}"
            self._draw()

    def switch(self, layer: int, expert: int, off: bool = True) -> None:
        """Select an expert and switch it off, or back on."""
        with self._lock:
            self.layer, self.expert = self.moment.place(layer, expert)
            self.change(self.changes.switch(self._place, off))

    def reset(self) -> None:
        """Restore the trained model; the text and the selection stay."""
        self.change(UNTOUCHED)

    def find_strongest(self) -> None:
        """Select, but don't switch off, the expert whose absence changes the next token most."""
        with self._lock:
            ids = self.moment.before.tokens.tolist()[: self.token + 1]
            best = strongest_switches(self.model, ids, count=1)[0]
            self.select(layer=best.layer, expert=best.expert)
            self.controls.remark.value = (
                f"Of all experts, expert {best.expert} of layer {best.layer} matters most for "
                f"what comes next. Guess first, then switch it off."
            )

    def enlarge(self, large: bool) -> None:
        """Switch to presentation size, readable from the back row, or back to desk size."""
        with self._lock:
            self.look = ROOM if large else DESK
            with self._silence():
                self.controls.enlarge(large)
            with self.picture.batch_update():
                resize_picture(self.picture, self.moment.after.n_experts, self.look)
            if self.replay is not None:
                with self.replay.batch_update():
                    resize_replay(self.replay, self.look)
            self._draw()
            self._draw_replay()

    def _connect(self) -> None:
        controls = self.controls
        actions: dict[str, Callable[[Any], None]] = {
            "text": lambda text: self.select(text),
            "layer": lambda layer: self.select(layer=layer),
            "top_k": self._set_top_k,
            "temperature": lambda t: self.change(replace(self.changes, temperature=t)),
            "bias": lambda value: self.change(self.changes.push(self._place, value)),
            "off": lambda off: self.change(self.changes.switch(self._place, off)),
            "shared": lambda off: self.change(self.changes.switch_shared(self.layer, off)),
            "prompt": self._take_prompt,
            "step": lambda step: self._draw_steps(),
            "record": lambda record: self._draw_replay(),
            "large": self.enlarge,
            "tables": lambda shown: (self._draw(), self._draw_replay()),
        }
        for name, action in actions.items():
            getattr(controls, name).observe(self._guarded(action), names="value")
        controls.tokens.observe(self._guarded(lambda n: self.select(token=n)), names="selected")
        controls.experts.observe(self._guarded(lambda n: self.select(expert=n)), names="selected")
        controls.reset.on_click(self._guarded(lambda button: self.reset()))
        controls.find.on_click(self._guarded(lambda button: self.find_strongest()))
        self.picture.data[0].on_click(self._clicked)

    def _guarded(self, action: Callable[[Any], None]) -> Callable[[Any], None]:
        """Wrap a callback: show errors, ignore the stage's own updates, measure time."""

        def run(event: Any) -> None:
            if self._quiet == threading.get_ident():
                return
            started = time.perf_counter()
            try:
                with self._lock:
                    action(event["new"] if isinstance(event, dict) else event)
                self.controls.error.value = ""
            except Exception as error:
                self.controls.error.value = error_html(error)
            self.milliseconds = 1000 * (time.perf_counter() - started)

        return run

    @contextmanager
    def _silence(self) -> Iterator[None]:
        self._quiet = threading.get_ident()  # events of other threads wait for the lock
        try:
            yield
        finally:
            self._quiet = 0

    @property
    def _place(self) -> tuple[int, int]:
        return self.layer, self.expert

    def _set_top_k(self, top_k: int) -> None:
        self.change(
            replace(self.changes, top_k=None if top_k == self.model.config.top_k else top_k)
        )

    def _take_prompt(self, text: str) -> None:
        if text:
            self.controls.text.value = text

    def _clicked(self, trace: Any, points: Any, state: Any) -> None:
        """Select the token and expert of a clicked heatmap cell."""
        if points.xs:
            self._guarded(lambda cell: self.select(token=cell[0], expert=cell[1]))(
                (int(points.xs[0]), int(points.ys[0]))
            )

    def _read(self, text: str) -> None:
        ids, remark = clip_text(self.model, text)
        self.text, self.controls.remark.value = text, remark
        if ids is not None:
            self.moment = run_moment(self.model, ids, self.changes)
            self.token, self._first = len(ids) - 1, 0

    def _draw(self) -> None:
        controls, moment = self.controls, self.moment
        self._first = window_start(
            self._first, self.token, len(moment.after.pieces), self.look.window
        )
        with self.picture.batch_update():
            draw_moment(self.picture, moment, self.layer, self.token, self.expert, self._first,
                        self.look, self.capacity_factor)  # fmt: skip
        with self._silence():
            controls.follow(self.text, self.layer, self.expert, self.changes,
                            self.model.config.top_k)  # fmt: skip
            words = f"Tokens in layer {self.layer}, with their heaviest expert below"
            controls.tokens.show(panels.token_chips(moment.after, self.layer), self.token, words)
            words = f"Experts of layer {self.layer}, with their load below"
            controls.experts.show(panels.expert_chips(moment, self.layer), self.expert, words)
        controls.status.value = panels.status_line(self.changes)
        font = 22 if self.look is ROOM else 14
        controls.next.value = panels.next_table(moment, self.model, self.token, font=font).html
        controls.summary.value = f"<i>{html.escape(summary_of(self.picture))}</i>"
        tables = panels.picture_tables(moment, self.layer) if controls.tables.value else ""
        controls.table.value = tables
        self._draw_steps()

    def _draw_steps(self) -> None:
        self.controls.steps.value = panels.step_table(
            self.moment, self.model, self.layer, self.token, self.controls.step.value,
            font=self.look.stepper,
        ).html  # fmt: skip

    def _draw_replay(self) -> None:
        if self.replay is None:
            return
        place, controls = self.moment.after.layers.index(self.layer), self.controls
        with self.replay.batch_update():
            draw_replay(self.replay, self.history, controls.record.value, place, self.expert)
        controls.replayed.value = f"<i>{html.escape(summary_of(self.replay))}</i>"
        shown = controls.tables.value
        controls.replay_table.value = self._replay_table() if shown else ""

    def _replay_table(self) -> str:
        rows = replay_rows(self.history, self.moment.after.layers.index(self.layer))
        return panels.html_table(["step", "MaxVio", "entropy", "busiest"], rows)

    def __repr__(self) -> str:
        words = [str(self.changes) or "untouched", summary_of(self.picture)]
        words += [panels.next_table(self.moment, self.model, self.token).text]
        return " ".join(words)

    def _repr_mimebundle_(self, **named: Any) -> dict[str, Any]:
        """Return the widgets, with every view as static HTML and text for readers without them."""
        summaries = [summary_of(self.picture)]
        tables = []
        if self.replay is not None:
            summaries.append(summary_of(self.replay))
            tables.append(("Training as a table", self._replay_table()))
        still = panels.still_page(
            self.moment, self.model, self.layer, self.token, summaries, tables
        )
        bundle = self.view._repr_mimebundle_(**named) or {}
        return bundle | {"text/html": still, "text/plain": repr(self)}
