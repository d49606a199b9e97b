import pytest

from mini_moe.profiling.timing.recording import Part
from mini_moe.profiling.timing.result import StepProfile
from mini_moe.profiling.timing.segments import Segment


def profile(**changes):
    segments = [
        Segment(Part("attention", "a"), "forward", 0.0, 0.2, 4, 0.1),
        Segment(Part("experts", "b"), "forward", 0.2, 0.5, 1, 0.3),
        Segment(Part("attention", "a"), "backward", 0.7, 0.2, 2, 0.2),
        Segment(Part("other", "step"), "other", 0.9, 0.1, 0, 0.0),
    ]
    fields = {
        "name": "step", "device": "cpu", "threads": 1, "bf16": False, "tokens": 64,
        "seconds": 1.0, "plain_seconds": 0.8, "segments": segments, "alone": {},
    }  # fmt: skip
    return StepProfile(**fields | changes)


def test_rows_add_up_to_the_wall_time():
    assert sum(row.seconds for row in profile().rows) == pytest.approx(1.0)
    assert [(r.kind, r.phase, r.calls) for r in profile().rows][:2] == [
        ("attention", "forward", 4), ("attention", "backward", 2),
    ]  # fmt: skip


def test_coverage_is_the_share_of_named_parts():
    assert profile().coverage == pytest.approx(0.9)


def test_overhead_is_what_recording_added():
    assert profile().overhead == pytest.approx(0.25)
    assert profile().tokens_per_second == pytest.approx(80)


def test_sums_are_sorted_largest_first():
    assert list(profile().by("kind")) == ["experts", "attention", "other"]
    assert profile().by("phase")["forward"] == pytest.approx(0.7)


def test_another_field_is_refused():
    with pytest.raises(ValueError, match="'kind' or 'phase' expected"):
        profile().by("layer")


def test_sorting_and_combining_are_subtracted_from_the_experts():
    split = profile(alone={"sort": 0.1, "combine": 0.15})
    sums = split.by()
    assert sums["sort"] == pytest.approx(0.1) and sums["combine"] == pytest.approx(0.15)
    assert sums["experts"] == pytest.approx(0.25)
    assert sum(sums.values()) == pytest.approx(1.0)


def test_separate_times_that_exceed_the_experts_are_ignored():
    assert "sort" not in profile(alone={"sort": 0.6}).by()


def test_on_a_gpu_the_rest_of_the_wall_time_is_waiting():
    sums = profile(device="cuda").by()
    assert sums["attention"] == pytest.approx(0.3)
    assert sums["waiting"] == pytest.approx(0.4)
    assert sum(sums.values()) == pytest.approx(1.0)


def test_it_prints_every_kind():
    text = str(profile())
    assert "+25%" in text and "90.0%" in text and "experts" in text
