"""Results: one entry per processor; none are lost or replaced by a run on a busy machine."""

import json

import pytest

from tests.benchmarks.common import RESULTS, keep, table

QUIET = {"command": "c", "others_share": 0.01, "busy": False, "rows": [{"x": 1}]}
BUSY = QUIET | {"others_share": 0.4, "busy": True, "rows": [{"x": 2}]}


@pytest.fixture
def machines(tmp_path):
    return lambda: json.loads((tmp_path / "b.json").read_text(encoding="utf-8"))["machines"]


def test_every_processor_keeps_its_entry(tmp_path, machines):
    keep("b", "one", QUIET, tmp_path)
    keep("b", "two", BUSY, tmp_path)
    assert machines() == {"one": QUIET, "two": BUSY}
    assert [path.name for path in tmp_path.iterdir()] == ["b.json"]


def test_a_busy_run_never_replaces_a_quiet_one(tmp_path, machines):
    keep("b", "one", QUIET, tmp_path)
    said = keep("b", "one", BUSY, tmp_path)
    assert machines() == {"one": QUIET}
    assert said == (
        "not kept: 40% of the cores were taken by other work, and b.json has a quiet run on one"
    )


def test_a_quiet_run_replaces_whatever_stood_there(tmp_path, machines):
    keep("b", "one", BUSY, tmp_path)
    keep("b", "one", QUIET, tmp_path)
    assert machines() == {"one": QUIET}


def test_columns_are_all_keys_in_their_order():
    lines = table([{"peer": "ours", "ms": 1234.5678}, {"peer": "theirs", "why": "none"}])
    assert [line.split() for line in lines.splitlines()] == [
        ["peer", "ms", "why"],
        ["ours", "1,235"],
        ["theirs", "none"],
    ]


@pytest.mark.parametrize(
    "path", sorted(set(RESULTS.glob("*.json")) - set(RESULTS.glob("gpu_*"))), ids=lambda p: p.stem
)
def test_every_committed_figure_names_its_processor_and_day(path):
    content = json.loads(path.read_text(encoding="utf-8"))
    assert set(content) == {"benchmark", "machines"} and content["benchmark"] == path.stem
    for name, entry in content["machines"].items():
        assert "(" in name, f"{name}: the name should include a generation or family"
        assert {"command", "date", "threads", "torch", "rows"} <= set(entry)
