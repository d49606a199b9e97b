"""A common look, a summary for every figure, and visible errors."""

import subprocess
import sys
from types import SimpleNamespace

import plotly.graph_objects as go
import pytest

from mini_moe.views.sentence import expert_colour
from mini_moe.views.style import (
    Html,
    as_widget,
    contrast,
    error_html,
    new_figure,
    readable_on,
    safe_callback,
    set_summary,
    show,
    summary_of,
    table,
)


def displayed(thing, monkeypatch):
    """Return the mime bundles displayed by a cell ending in `thing`."""
    import IPython.display

    shown = []
    monkeypatch.setattr(IPython.display, "display", lambda item, **named: shown.append(item))
    thing._ipython_display_()
    return shown


def test_no_figure_offers_to_upload_it():
    figure = new_figure("nothing")
    assert "sendChartToCloud" in figure.layout.template.layout.modebar.remove
    assert as_widget(figure)._config["displaylogo"] is False


def test_a_figure_is_shown_with_its_summary(monkeypatch):
    figure = new_figure("One bar of height 2.").add_bar(x=["a"], y=[2])
    picture, words = displayed(show(figure), monkeypatch)
    drawing = picture["application/vnd.plotly.v1+json"]
    assert drawing["config"]["displaylogo"] is False
    assert drawing["layout"]["width"] == 760
    assert picture["text/plain"] == repr(show(figure)) == "One bar of height 2."
    assert words.data == "*One bar of height 2.*"


def test_a_figure_gives_its_numbers_as_a_table():
    figure = new_figure("").add_bar(x=["a", "b"], y=[1, 2], name="n")
    assert table(figure) == [{"series": "n", "x": "a", "y": 1}, {"series": "n", "x": "b", "y": 2}]
    heat = go.Figure(go.Heatmap(z=[[1.0, 2.0]], x=[0, 1], y=[5]))
    assert table(heat)[1] == {"series": "", "x": 1, "y": 5, "value": 2.0}


def test_a_summary_can_be_replaced():
    figure = new_figure("old")
    set_summary(figure, "new")
    assert summary_of(figure) == "new"
    assert summary_of(go.Figure()) == ""


def test_a_failing_callback_shows_its_error_and_the_next_one_clears_it():
    box = SimpleNamespace(value="")

    @safe_callback(box)
    def divide(by):
        1 / by

    divide(0)
    assert "ZeroDivisionError: division by zero" in box.value
    assert 'role="alert"' in box.value
    divide(1)
    assert box.value == ""


def test_errors_are_escaped():
    assert "<b>" not in error_html(ValueError("<b>bold</b>"))


@pytest.mark.parametrize("expert", range(32))
def test_text_on_every_expert_colour_is_readable(expert):
    colour = expert_colour(expert)
    assert contrast(readable_on(colour), colour) >= 4.5


def test_sixteen_experts_have_sixteen_colours():
    assert len({expert_colour(expert) for expert in range(16)}) == 16


def test_contrast_is_that_of_the_standard():
    assert contrast("#000000", "#FFFFFF") == pytest.approx(21)
    assert contrast("#777777", "#FFFFFF") == pytest.approx(4.48, abs=0.01)


def test_html_has_a_text_alternative():
    assert repr(Html("<b>x</b>", "a bold x")) == "a bold x"


def test_views_leave_the_widget_libraries_until_they_are_needed():
    program = "import mini_moe.views, sys; print('plotly.basewidget' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("False\n", "")
