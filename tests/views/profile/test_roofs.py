import dataclasses
import itertools

import pytest

from mini_moe.profiling.limits import Limits
from mini_moe.profiling.roofline import Point, Roofline
from mini_moe.views.profile import roofline_chart
from mini_moe.views.style import summary_of

LIMITS = Limits(
    device="cpu", threads=1, flops={"float32": 1e11, "bfloat16": 5e11},
    flops_from={"float32": "torch", "bfloat16": "torch"},
    memory_bytes=5e10, cache_bytes=2e11, call_seconds=1e-6,
)  # fmt: skip


def point(kind, flops, n_bytes, seconds, **limits):
    least = {"compute": 0.0, "bytes": 0.0, "calls": 0.0} | limits
    return Point(
        kind=kind, flops=flops, n_bytes=n_bytes, calls=3, seconds=seconds, limits=least
    )  # fmt: skip


@pytest.fixture
def roof():
    points = (
        point("head", 10**9, 10**7, 0.01, compute=0.002),
        point("experts", 10**9, 10**7, 0.0101, compute=0.002),
        point("router", 10**7, 10**6, 0.01, calls=0.004),
        point("norms", 0, 10**7, 0.001, bytes=0.0002),
    )
    return Roofline(points=points, limits=LIMITS, dtype="bfloat16", flops=10**9, seconds=0.02)


def test_every_part_with_products_is_a_point(roof):
    figure = roofline_chart(roof)
    dots = [t for t in figure.data if t.type == "scatter" and t.mode == "markers"]
    assert {trace.name for trace in dots} == {"compute", "calls"}
    assert sorted(x for trace in dots for x in trace.x) == [10, 100, 100]
    assert len({trace.marker.symbol for trace in dots}) == 2


def test_parts_without_products_are_bars_of_bandwidth(roof):
    bars = [trace for trace in roofline_chart(roof).data if trace.type == "bar"]
    assert [(*bar.x, *bar.y) for bar in bars] == [("norms", 10.0)]


def test_roofs_bend_where_bytes_and_products_meet(roof):
    memory = next(t for t in roofline_chart(roof).data if (t.name or "").startswith("memory"))
    assert memory.x[1] == pytest.approx(500 / 50) and memory.y[1] == pytest.approx(500)


def test_names_do_not_overlap_even_where_points_do(roof):
    twins = tuple(dataclasses.replace(roof.points[0], kind=f"part {n}") for n in range(6))
    figure = roofline_chart(dataclasses.replace(roof, points=(*roof.points, *twins)))
    notes = [note for note in figure.layout.annotations if note.showarrow]
    same = [note for note in notes if note.text.startswith("part")]
    for one, other in itertools.combinations(same, 2):
        width = 4.0 * (len(one.text) + len(other.text))
        assert abs(one.ax - other.ax) >= width or abs(one.ay - other.ay) >= 15


def test_no_name_lies_on_the_roof(roof):
    """A part just below the peak gets its name beside or below its point."""
    near = dataclasses.replace(roof.points[0], kind="dense FFN", seconds=0.00201)
    figure = roofline_chart(dataclasses.replace(roof, points=(near, *roof.points[1:])))
    (note,) = (n for n in figure.layout.annotations if n.text == "dense FFN")
    assert note.ay >= 0


def test_the_summary_names_the_bounds_and_the_utilisation(roof):
    text = summary_of(roofline_chart(roof))
    assert "10%" in text and "compute: head, experts; bytes: norms; calls: router" in text
