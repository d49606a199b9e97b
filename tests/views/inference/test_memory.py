import pytest

from mini_moe import presets
from mini_moe.profiling import cache_bytes_per_token
from mini_moe.views.inference import cache_growth
from mini_moe.views.style import summary_of, table


def test_lines_end_at_the_published_gigabytes_of_v3():
    figure = cache_growth(cache_bytes_per_token(presets.deepseek_v3()))
    last = {row["series"]: row["y"] for row in table(figure) if row["x"] == 131_072}
    assert last["MLA"] == pytest.approx(9.21, abs=0.01)
    assert last["MHA"] == pytest.approx(524.0, abs=0.1)
    assert "MLA, all heads 655 GB" in summary_of(figure)


def test_a_line_doubles_with_the_tokens():
    rows = table(cache_growth({"a": 100}, mark=2048))
    assert [row["x"] for row in rows] == [256, 512, 1024, 2048]
    assert rows[-1]["y"] == pytest.approx(2 * rows[-2]["y"])


def test_names_at_the_right_keep_their_distance():
    figure = cache_growth({"a": 1000, "b": 1001, "c": 5})
    heights = sorted(note.y for note in figure.layout.annotations)
    lines = [y for trace in figure.data for y in trace.y]
    assert len(heights) == 3 and max(lines) > min(lines)
    assert heights[2] - heights[1] > 0.1


@pytest.mark.parametrize("sizes", [{}, {"a": 0}])
def test_bytes_are_needed(sizes):
    with pytest.raises(ValueError, match="bytes_per_token"):
        cache_growth(sizes)


def test_a_mark_too_small_is_refused():
    with pytest.raises(ValueError, match="mark=10"):
        cache_growth({"a": 1}, mark=10)
