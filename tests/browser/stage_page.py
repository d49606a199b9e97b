"""Drive the stage of `11_live_demo` in a browser: its controls, drawings, time and memory."""

import json
import random
from collections.abc import Callable, Iterable

import psutil
from playwright.sync_api import Locator

from tests.browser.lab_page import RACE, LabPage

NOTEBOOK = "notebooks/11_live_demo.ipynb"
SETTLED_MS = 60_000
SIXTY_FOUR = "Anna found a small key under the old tree. 12 + 30 = 42. "

# Widget messages are answered in a separate thread, so a cell's round trip proves nothing:
# count the messages sent but not yet answered.
COUNT = """() => {
  const kernel = window.jupyterapp.shell.currentWidget.context.sessionContext.session.kernel;
  const pending = window.stagePending = new Set();
  kernel.anyMessage.connect((_, { msg, direction }) => {
    if (direction === 'send' && msg.header.msg_type === 'comm_msg') {
      pending.add(msg.header.msg_id);
    } else if (msg.header.msg_type === 'status' && msg.content.execution_state === 'idle') {
      pending.delete(msg.parent_header.msg_id);
    }
  });
}"""

# Nothing pending three times in a row: a control sends its next value once the last is answered.
SETTLE = """async () => {
  const kernel = window.jupyterapp.shell.currentWidget.context.sessionContext.session.kernel;
  const pause = () => new Promise(resolve => setTimeout(resolve, 30));
  const frame = () => new Promise(resolve => requestAnimationFrame(resolve));
  for (let quiet = 0; quiet < 3; quiet = window.stagePending.size ? 0 : quiet + 1) {
    await pause(); await frame();
  }
  await kernel.requestExecute({ code: '', silent: true }).done;
  await frame(); await frame();
}"""

ASK = """async code => {
  const kernel = window.jupyterapp.shell.currentWidget.context.sessionContext.session.kernel;
  const future = kernel.requestExecute({ code, store_history: false });
  let text = '';
  future.onIOPub = m => { text += m.content.text || (m.content.traceback || []).join('\\n'); };
  await future.done;
  return text;
}"""

# The picture's numbers as the browser holds them.
DRAWN = """() => {
  const plain = v => v == null ? [] : Array.from(v, x => typeof x === 'number' ? x : null);
  const plots = [...document.querySelectorAll('.moe-stage .js-plotly-plot')];
  return plots.map(plot => ({
    title: plot.layout.annotations[0].text,
    z: plot.data[0].z ? Array.from(plot.data[0].z, row => Array.from(row)) : [],
    data: plot.data.map(trace => ({ name: trace.name, x: plain(trace.x), y: plain(trace.y) })),
  }));
}"""

# Milliseconds from the last key press or click to the first drawing with different data.
WATCH = """() => {
  const plots = [...document.querySelectorAll('.moe-stage .js-plotly-plot')];
  const look = () => JSON.stringify(plots.map(plot => plot.data.map(t =>
    [Array.from(t.x || []), Array.from(t.y || []), t.z ? Array.from(t.z, r => r[0]) : 0])));
  const watch = window.stageWatch = { start: null, took: null, before: look() };
  const begin = () => {
    Object.assign(watch, { took: null, before: look(), start: performance.now() });
  };
  for (const kind of ['keydown', 'mousedown']) document.addEventListener(kind, begin, true);
  for (const plot of plots) plot.on('plotly_afterplot', () => {
    if (watch.start === null || watch.took !== null || look() === watch.before) return;
    watch.took = performance.now() - watch.start;
  });
}"""


class StagePage:
    """The stage in an open notebook that has been run."""

    def __init__(self, page: LabPage) -> None:
        self.page, self.tab = page, page.tab
        self.stage = self.tab.locator(".moe-stage").first
        self.stage.locator(".js-plotly-plot").nth(1).wait_for(state="attached")
        self.tab.evaluate(COUNT)

    def button(self, name: str) -> Locator:
        return self.stage.get_by_role("button", name=name)

    def slider(self, label: str) -> Locator:
        """Return a slider's handle, to be moved with keys."""
        named = self.tab.get_by_text(label, exact=False)
        return self.stage.locator(".widget-slider", has=named).locator(".noUi-handle").first

    def chips(self, number: int) -> Locator:
        """Return a row of chips. 0: the experts, 1: the tokens."""
        return self.stage.locator(".moe-chips").nth(number)

    def press(self, place: Locator, *keys: str) -> None:
        place.focus()
        for key in keys:
            self.tab.keyboard.press(key)

    def type_text(self, text: str) -> None:
        self.stage.locator("textarea").fill(text)
        self.settle()

    def settle(self) -> None:
        """Wait until everything sent has been answered and drawn."""
        assert self.tab.evaluate(RACE % SETTLE, SETTLED_MS) == "done", "the kernel did not answer"

    def ask(self, code: str) -> str:
        """Return what the kernel prints for a line of Python."""
        return self.tab.evaluate(ASK, code)

    def drawn(self) -> list[dict]:
        """Return title, scores and lines of the picture and the replay."""
        return self.tab.evaluate(DRAWN)

    def state(self) -> dict:
        """Return the state of the stage in the kernel: its selection, changes and numbers."""
        return json.loads(self.ask(_STATE))

    def heap_megabytes(self) -> float:
        """Return the size of the page's JavaScript heap after garbage collection."""
        session = self.tab.context.new_cdp_session(self.tab)
        session.send("HeapProfiler.enable")
        session.send("HeapProfiler.collectGarbage")
        session.send("Performance.enable")
        metrics = session.send("Performance.getMetrics")["metrics"]
        session.detach()
        used = next(metric["value"] for metric in metrics if metric["name"] == "JSHeapUsedSize")
        return used / 1e6

    def kernel_megabytes(self) -> float:
        """Return the resident memory of the notebook's kernel."""
        sessions = json.loads(self.page.server.request("GET", "/api/sessions"))
        kernel = sessions[0]["kernel"]["id"]
        for process in psutil.Process(self.page.server.process.pid).children(recursive=True):
            if any(kernel in part for part in process.cmdline()):
                return process.memory_info().rss / 1e6
        raise RuntimeError(f"no process runs kernel {kernel}")

    def latencies(self, rounds: int = 4) -> dict[str, list[float]]:
        """Measure milliseconds from input to changed data on screen, per control (64 tokens)."""
        self.ask(f"stage.reset(); stage.select(model.tokenizer.decode(model.tokenizer.encode("
                 f"{SIXTY_FOUR * 4!r})[:62]), layer=1, expert=6)")  # fmt: skip
        self.settle()
        self.tab.evaluate(WATCH)
        off, text = self.button("Switch expert"), self.stage.locator("textarea")
        took: dict[str, list[float]] = {}
        for n in range(rounds):
            self.ask("stage.reset()")
            end = "Home" if n % 2 else "End"
            changes = {
                "switch an expert off": (off, "Enter"),
                "switch it on": (off, "Enter"),
                "drag the bias": (self.slider("Bias"), "End"),
                "step a token": (self.chips(1), "ArrowLeft"),
                "change the layer": (self.slider("Layer"), end),
                "type a character": (text, "abcdefgh"[n % 8]),
            }
            for name, (place, key) in changes.items():
                place.focus()
                if place is text:
                    self.press(text, "Control+End")
                took.setdefault(name, []).append(self._timed(key))
        return took

    def _timed(self, key: str) -> float:
        self.settle()
        self.tab.keyboard.press(key)
        self.tab.wait_for_function("window.stageWatch.took !== null", timeout=SETTLED_MS)
        return self.tab.evaluate("window.stageWatch.took")

    def random_events(self, count: int, seed: int) -> None:
        """Send random keys, clicks and texts, without waiting for the previous one."""
        draw = random.Random(seed)
        actions = self._actions(draw)
        for _ in range(count):
            draw.choice(actions)()

    def _actions(self, draw: random.Random) -> list[Callable[[], None]]:
        arrows = ("ArrowLeft", "ArrowRight")
        labels = ("Layer", "Experts a token", "Temperature", "Bias", "Step", "Log record")
        sliders = [self.slider(label) for label in labels]
        texts = (
            "",
            "Once upon a",
            "7 + 6 = 1",
            "Der alte Mann",
            "<b>&</b>",
            "🙂\t\x07",
            SIXTY_FOUR * 3,
        )
        clicks: Iterable[str] = ("Switch expert", "Switch shared", "Reset the model", "Tables",
                                 "Presentation size")  # fmt: skip
        area = self.stage.locator("textarea")
        actions = [lambda s=s: self.press(s, draw.choice(arrows)) for s in sliders * 2]
        actions += [lambda n=n: self.press(self.chips(n), draw.choice(arrows)) for n in (0, 1) * 3]
        actions += [
            lambda name=name: self.stage.locator("button", has_text=name).click() for name in clicks
        ]
        actions += [
            lambda: area.fill(draw.choice(texts)),
            lambda: self.press(area, draw.choice("abc ")),
        ]
        return actions


_STATE = """
import json
_t, _l = stage.moment.after, stage.moment.after.layers.index(stage.layer)
print(json.dumps({
    "text": stage.text, "token": stage.token, "layer": stage.layer, "expert": stage.expert,
    "off": sorted(stage.changes.off), "error": stage.controls.error.value,
    "load": list(map(float, stage.picture.data[5].x)), "pieces": len(_t.pieces),
    "record": stage.controls.record.value, "title": stage.picture.layout.annotations[0].text,
    "z": [list(map(float, row)) for row in stage.picture.data[0].z],
}))
"""
