import dataclasses

import pytest

from mini_moe.profiling import Growth, StepMemory
from mini_moe.views.profile import growth_curves, memory_bars
from mini_moe.views.style import summary_of, table


def grown(**changes):
    fields = {
        "axis": "tokens", "what": "training step", "values": (100, 200, 400),
        "seconds": (1.0, 2.0, 4.0), "n_bytes": (10, 20, 40),
    }  # fmt: skip
    return Growth(**fields | changes)


def test_curves_start_at_one_and_name_their_power():
    figure = growth_curves({"tokens": grown()})
    measured = next(trace for trace in figure.data if trace.name == "tokens")
    assert list(measured.x) == list(measured.y) == [1, 2, 4]
    assert "tokens: 1.00 ± 0.00" in [note.text for note in figure.layout.annotations]
    assert "tokens grows with the power 1.00 ± 0.00" in summary_of(figure)


def test_a_fitted_line_goes_through_an_exact_power():
    figure = growth_curves({"a": grown(seconds=(1.0, 4.0, 16.0))})
    fitted = next(trace for trace in figure.data if trace.name == "a, fitted")
    assert list(fitted.y) == pytest.approx([1, 4, 16])


def test_memory_needs_bytes():
    assert "Memory" in summary_of(growth_curves({"tokens": grown()}, memory=True))
    with pytest.raises(ValueError, match="forward pass was not predicted"):
        growth_curves({"a": grown(what="forward pass", n_bytes=())}, memory=True)
    with pytest.raises(ValueError, match="at least one curve"):
        growth_curves({})


def memory(peak):
    return StepMemory(
        weights=2_000_000, optimizer=4_000_000, batch=100, activations=5_000_000,
        gradients=2_000_000, peaks={"forward": 1, "backward": peak, "optimizer": 2},
    )  # fmt: skip


def test_predicted_memory_is_drawn_next_to_measured_memory():
    figure = memory_bars(memory(10_000_000), memory(8_000_000))
    rows = {(row["series"], row["y"]): row["x"] for row in table(figure)}
    assert rows["predicted", "peak"] == 10 and rows["measured", "peak"] == 8
    assert rows["measured", "activations"] == 5
    assert "(+25.0%)" in summary_of(figure)


@pytest.mark.parametrize(
    ("phase", "held"), [("backward", "activations"), ("optimizer", "gradients")]
)
def test_bars_that_the_summary_names_add_up_to_the_peak(phase, held):
    full = {"forward": 1, "backward": 2, "optimizer": 3} | {phase: 12_000_100}
    step = dataclasses.replace(memory(0), peaks=full)
    figure = memory_bars(step)
    size = {row["y"]: row["x"] for row in table(figure)}
    parts = sum(size[name] for name in ("weights", "optimizer", held, "temporary"))
    assert parts + step.batch / 1e6 == pytest.approx(size["peak"])
    assert f"in the {phase} phase: weights, optimizer, {held} and temp" in summary_of(figure)


def test_predicted_memory_alone_is_enough():
    assert [trace.name for trace in memory_bars(memory(10)).data] == ["predicted"]
