import pytest

from mini_moe.profiling.timing import Segment, StepProfile
from mini_moe.profiling.timing.recording import Part
from mini_moe.views.profile import ladder_bars, step_bars, step_timeline
from mini_moe.views.profile.step import joined
from mini_moe.views.style import summary_of, table

ATTENTION, EXPERTS = Part("attention", "layers.0.self_attn"), Part("experts", "layers.0.mlp")
SEGMENTS = [
    Segment(ATTENTION, "forward", 0.0, 0.2, 3, 0.0),
    Segment(EXPERTS, "forward", 0.2, 0.3, 1, 0.0),
    Segment(EXPERTS, "backward", 0.5, 0.4, 2, 0.0),
    Segment(Part("other", "step"), "other", 0.9, 0.1, 0, 0.0),
]


@pytest.fixture
def profile():
    return StepProfile(
        name="training step", device="cpu", threads=1, bf16=False, tokens=64, seconds=1.0,
        plain_seconds=0.9, segments=SEGMENTS, alone={},
    )  # fmt: skip


def test_bars_add_up_to_the_step(profile):
    rows = table(step_bars(profile))
    assert sum(row["x"] for row in rows) == pytest.approx(1000)
    assert {row["series"] for row in rows} == {"forward", "backward", "other"}
    assert "experts takes longest, 700 of 1e+03 ms (70%)" in summary_of(step_bars(profile))


def test_other_comes_last(profile):
    assert list(step_bars(profile).data[0].y) == ["experts", "attention", "other"]


def test_the_timeline_shows_when_each_part_ran(profile):
    figure = step_timeline(profile)
    forward = next(trace for trace in figure.data if trace.name == "forward")
    assert list(forward.base) == [0.0, 200.0] and list(forward.x) == [200.0, 300.0]
    assert list(forward.y) == ["attention", "experts"]
    assert list(forward.customdata[0]) == ["layers.0.self_attn", 3, 200.0]
    assert "%{x" not in forward.hovertemplate  # plotly's x is the end of a bar
    assert "forward until 500 ms, backward until 900 ms" in summary_of(figure)


def test_a_loaded_trace_can_be_drawn():
    assert len(step_timeline(SEGMENTS[:2]).data) == 1
    assert "forward pass" in summary_of(step_timeline(SEGMENTS[:2]))
    with pytest.raises(ValueError, match="at least one segment"):
        step_timeline([])


def test_neighbours_of_one_module_become_one_bar():
    close = Segment(ATTENTION, "forward", 0.200001, 0.1, 2, 0.0)
    far = Segment(ATTENTION, "forward", 0.9, 0.1, 1, 0.0)
    bars = joined([SEGMENTS[0], close, far])
    assert [bar.calls for bar in bars] == [5, 1]
    assert bars[0].seconds == pytest.approx(0.300001)


def test_rungs_are_compared_with_the_one_before():
    figure = ladder_bars({"loop": [0.4, 0.5], "sorted": [0.1], "bf16": [0.05, 0.06]})
    said = [note.text for note in figure.layout.annotations]
    assert said == ["400 ms", "100 ms, 4.00 × as fast", "50 ms, 2.00 × as fast"]
    assert "8.0 times as fast over 2 changes" in summary_of(figure)


def test_bad_rungs_are_named():
    with pytest.raises(ValueError, match="rungs"):
        ladder_bars({"loop": []})
    with pytest.raises(ValueError, match="unit='h'"):
        ladder_bars({"loop": [1.0]}, unit="h")
