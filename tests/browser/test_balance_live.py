"""The balance lab in a browser: dragging γ during training works, then the run replays."""

import pytest

from tests.browser.test_training_live import RUN
from tests.browser.test_widgets_offline import write_notebook

pytestmark = pytest.mark.browser

CELLS = (
    "from mini_moe import TrainConfig, presets\n"
    "from mini_moe.views.lab import balance_live\n"
    "steps = TrainConfig(steps=3000, batch_size=2, seq_len=32, eval_every=3000, eval_tokens=64)\n"
    "lab = balance_live(presets.lab(), steps)",
    "runs = await lab\n"
    "rates = {r['bias_update_rate'] for r in runs['loss-free bias'].log}\n"
    "print('rates used:', sorted(rates), 'steps:', len(runs['loss-free bias'].log))",
)
TRAINS = "/step [1-9]\\d* of 3000/.test(document.body.innerText)"
USED = "[...document.querySelectorAll('td')].some(cell => cell.innerText === '%s')"
STOPPED = "/rates used: \\[0.01, 0.03, 0.1\\]/.test(document.body.innerText)"
MARK = "[...document.querySelector('.js-plotly-plot').data[4].x].join() === '1,1'"
RATE, STEP = 0, 3  # indices of the sliders


def test_a_slider_acts_while_it_trains_and_the_run_replays(page, lab):
    write_notebook(lab, "balance.ipynb", *CELLS)
    page.open_notebook("balance.ipynb")
    page.tab.evaluate(RUN)
    page.tab.wait_for_function(TRAINS)
    sliders = page.tab.locator(".noUi-handle")
    sliders.nth(RATE).focus()
    for rate in ("0.03", "0.1"):  # the second only arrives if the first was answered
        page.tab.keyboard.press("ArrowRight")
        page.tab.wait_for_function(USED % rate)
    page.tab.locator("button[title*='Stop training']").click()
    page.tab.wait_for_function(STOPPED)
    sliders.nth(STEP).focus()
    page.tab.keyboard.press("Home")
    page.tab.wait_for_function(MARK)
    page.assert_clean()
