"""While a cell awaits a training run, the browser's Stop button and ■ still reach it."""

import pytest

from tests.browser.test_widgets_offline import write_notebook

pytestmark = pytest.mark.browser

CELLS = (
    "from mini_moe import TrainConfig, presets\n"
    "from mini_moe.views import train_live\n"
    "steps = TrainConfig(steps=5000, batch_size=2, seq_len=32, eval_every=5000, eval_tokens=64)\n"
    "live = train_live(presets.lab(), steps)",
    "run = await live\nprint('stopped early:', run.stopped, run.log[-1]['step'] < 5000)",
)
RUN = "() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }"
IN_THE_MIDDLE = "/step [1-9]\\d* of 5000/.test(document.body.innerText)"
STOPPED = "document.body.innerText.includes('stopped early: True True')"
INTERRUPT = "() => { window.jupyterapp.commands.execute('notebook:interrupt-kernel') }"


@pytest.mark.parametrize("by", ["the Stop button", "interrupting the kernel"])
def test_a_run_that_a_cell_awaits_can_be_stopped(page, lab, by):
    write_notebook(lab, "stop.ipynb", *CELLS)
    page.open_notebook("stop.ipynb")
    page.tab.evaluate(RUN)
    page.tab.wait_for_function(IN_THE_MIDDLE)
    if by == "the Stop button":
        page.tab.locator("button[title*='Stop training']").click()
    else:
        page.tab.evaluate(INTERRUPT)
    page.tab.wait_for_function(STOPPED)
    page.assert_clean()
