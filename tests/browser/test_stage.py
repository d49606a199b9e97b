"""The stage in a real browser: typing, stepping, dragging and switching off update the picture."""

import statistics

import numpy as np
import pytest

from mini_moe import load_hf, trace_routing
from mini_moe.routing import expert_load, intervene
from mini_moe.text import data_folder
from mini_moe.views.stage import Changes, effect
from mini_moe.views.stage.replay import History
from tests.browser.stage_page import NOTEBOOK, SETTLED_MS, StagePage

pytestmark = pytest.mark.browser

IN_SIGHT = """() => {
  const box = document.querySelectorAll('.moe-chips')[1];
  const chip = box.children.length === 512 && box.querySelector('.here').firstChild;
  if (!chip) return false;
  const [outer, inner] = [box, chip].map(node => node.getBoundingClientRect());
  return outer.top <= inner.top && inner.bottom <= outer.bottom;
}"""
GENEROUS_MS = 3_000  # for a busy test machine; the benchmark uses a quiet one


@pytest.fixture(scope="module")
def model():
    return load_hf(data_folder() / "checkpoints" / "tiny")


@pytest.fixture(scope="module")
def opened(open_page):
    """Run the notebook once for all tests in this file."""
    with open_page("test_stage") as page:
        page.open_notebook(NOTEBOOK)
        page.run_all(seconds=300)
        yield StagePage(page)
        page.assert_clean()


@pytest.fixture
def stage(opened):
    """Return the stage with its model reset and a short text."""
    opened.ask(
        "stage.enlarge(False); stage.reset(); stage.select('Once upon a', layer=3, expert=0)"
    )
    opened.settle()
    yield opened
    assert opened.state()["error"] == ""
    opened.page.assert_clean()


def assert_drawn(stage, trace, layer, first=0):
    """Assert that the browser's picture shows a trace's scores and load."""
    picture = stage.drawn()[0]
    place = trace.layers.index(layer)
    scores = trace.scores[place, first : first + 22].T
    np.testing.assert_allclose(np.array(picture["z"]), scores.numpy(), atol=1e-4)
    load = expert_load(trace.expert_ids[place], 16)
    np.testing.assert_allclose(picture["data"][5]["x"], load.numpy(), atol=1e-6)


def test_typed_text_is_routed(stage, model):
    stage.stage.locator("textarea").click()
    stage.tab.keyboard.press("Control+A")
    stage.tab.keyboard.type("Grüße 🙂 <b>")
    stage.settle()
    assert_drawn(stage, trace_routing(model, "Grüße 🙂 <b>"), layer=3)
    assert stage.stage.locator("b", has_text="script").count() == 0
    assert stage.chips(1).locator("[data-n]").count() == len(model.tokenizer.encode("Grüße 🙂 <b>"))


def test_arrow_keys_step_through_tokens_and_leave_the_notebook_alone(stage):
    cells = stage.tab.evaluate("window.jupyterapp.shell.currentWidget.content.activeCellIndex")
    stage.press(stage.chips(1), "ArrowLeft", "ArrowUp", "x")
    stage.settle()
    state = stage.state()
    assert state["token"] == 0
    assert "Token 0 “Once”" in stage.stage.inner_text()
    x = [value for value in stage.drawn()[0]["data"][4]["x"][:5]]
    assert set(x) == {-0.5, 0.5}
    after = stage.tab.evaluate("window.jupyterapp.shell.currentWidget.content.activeCellIndex")
    assert after == cells and stage.stage.count() == 1


def test_a_dragged_layer_and_bias_are_what_the_model_does(stage, model):
    stage.press(stage.slider("Layer"), "ArrowLeft", "ArrowLeft")
    stage.press(stage.chips(0), "Home", "ArrowRight", "ArrowRight")
    stage.press(stage.slider("Bias"), *["ArrowRight"] * 10)
    stage.settle()
    assert stage.state()["layer"] == 1
    bias = {1: [0.2 if expert == 2 else 0.0 for expert in range(16)]}
    with intervene(model, bias=bias) as changed:
        assert_drawn(stage, trace_routing(changed, "Once upon a"), layer=1)


def test_a_knock_out_changes_what_the_model_expects(stage, model):
    stage.button("Find the strongest switch").click()
    stage.settle()
    state = stage.state()
    assert (state["layer"], state["expert"], state["off"]) == (3, 10, [])
    stage.button("Switch expert 10 off").click()
    stage.settle()
    with intervene(model, off={(3, 10)}) as changed:
        assert_drawn(stage, trace_routing(changed, "Once upon a"), layer=3)
    colours = "() => document.querySelector('.moe-stage .js-plotly-plot').data[2].marker.color"
    assert stage.tab.evaluate(colours) == "#FFFFFF"
    said = effect(model, "Once upon a", Changes(off=frozenset({(3, 10)})))
    assert said.startswith("·time 84 % → 2 %")
    assert (
        "“·time” goes from 84 % to 2 %; now “·child” leads with 64 %." in stage.stage.inner_text()
    )
    stage.button("Reset the model").click()
    stage.settle()
    assert_drawn(stage, trace_routing(model, "Once upon a"), layer=3)


def test_a_click_into_the_heatmap_selects_token_and_expert(stage):
    stage.stage.locator(".js-plotly-plot").first.scroll_into_view_if_needed()
    layer = stage.stage.locator(".js-plotly-plot .nsewdrag").first
    box = layer.bounding_box()
    stage.tab.mouse.click(box["x"] + 1.5 / 22 * box["width"], box["y"] + 8.5 / 16 * box["height"])
    stage.settle()
    state = stage.state()
    assert (state["token"], state["expert"]) == (1, 8)


def test_the_training_is_replayed(stage):
    stage.press(stage.slider("Log record"), "Home", "ArrowRight")
    stage.settle()
    replay = stage.drawn()[1]
    assert replay["title"] == "Load at step 20"
    history = History(data_folder() / "checkpoints" / "tiny")
    np.testing.assert_allclose(replay["data"][0]["y"], history.load[1, 2], atol=1e-6)
    np.testing.assert_allclose(replay["data"][2]["x"], history.steps)
    np.testing.assert_allclose(replay["data"][2]["y"], history.violation[:, 2], atol=1e-6)
    stage.stage.locator(".widget-play button").first.click()
    stage.tab.wait_for_function(
        "() => document.querySelectorAll('.moe-stage .js-plotly-plot')[1]"
        ".layout.annotations[0].text > 'Load at step 20'"
    )
    stage.stage.locator(".widget-play button").nth(1).click()
    stage.settle()


def test_presentation_size_is_larger_and_nothing_is_cut(stage, request):
    stage.button("Presentation size").click()
    stage.settle()
    sizes = stage.tab.evaluate(
        "() => [...document.querySelectorAll('.moe-stage .moe-chips bdi, .moe-stage td, "
        ".moe-stage .widget-label')].map(n => parseFloat(getComputedStyle(n).fontSize))"
    )
    assert min(sizes) >= 20
    if path := request.config.getoption("--stage-picture"):
        take_picture(stage, path)


def take_picture(stage, path):
    """Take a screenshot of the stage, from the controls to the picture, with an expert off."""
    carry = "Compute 487 + 356.\\nones: 7 + 6 = 1"
    stage.ask(f"stage.enlarge(False); stage.select('{carry}'); stage.switch(3, 14)")
    stage.settle()
    stage.stage.evaluate("node => node.scrollIntoView({ block: 'start' })")
    whole = stage.stage.bounding_box()
    plot = stage.stage.locator(".js-plotly-plot").first.bounding_box()
    height = plot["y"] + plot["height"] - whole["y"]
    stage.tab.screenshot(path=path, clip=whole | {"height": height})


def test_the_selected_token_of_a_long_text_is_in_sight(stage):
    stage.type_text("many words and 12 + 30 = 42 in a long text. " * 250)
    stage.tab.wait_for_function(IN_SIGHT, timeout=SETTLED_MS)
    assert stage.state()["pieces"] == 512
    assert "The model reads 512 tokens" in stage.stage.inner_text()


def test_the_picture_follows_a_change(stage):
    took = [value for values in stage.latencies(rounds=2).values() for value in values]
    print(f"\nfrom input to changed data: median {statistics.median(took):.0f} ms of {len(took)}")
    assert statistics.median(took) < GENEROUS_MS


def test_three_hundred_random_events_leave_no_error_and_no_memory(stage, capsys):
    stage.random_events(100, seed=1)
    stage.settle()
    heap, kernel = stage.heap_megabytes(), stage.kernel_megabytes()
    stage.random_events(200, seed=2)
    stage.settle()
    heap_after, kernel_after = stage.heap_megabytes(), stage.kernel_megabytes()
    with capsys.disabled():
        print(f"\n300 events: page {heap:.1f} → {heap_after:.1f} MB, "
              f"kernel {kernel:.0f} → {kernel_after:.0f} MB")  # fmt: skip
    state, picture = stage.state(), stage.drawn()[0]
    assert state["error"] == ""
    np.testing.assert_allclose(np.array(picture["z"]), np.array(state["z"]), atol=1e-6)
    np.testing.assert_allclose(picture["data"][5]["x"], state["load"], atol=1e-6)
    assert picture["title"] == state["title"]
    assert heap_after - heap < 25 and kernel_after - kernel < 60
