"""Targets, the JSON file and its tables, from hand-written rows."""

import copy
import json
from pathlib import Path

import pytest

from tests.benchmarks.common import RESULTS, ROOT
from tests.benchmarks.gpu import report
from tests.benchmarks.gpu.cases import DEEPSEEK_V3, TEACHING

WIDE = DEEPSEEK_V3._asdict() | {"routing": "uniform"}
LAYER = TEACHING._asdict() | {"routing": "uniform", "pass": "forward", "mode": "call"}
PRODUCT = {"operation": "a bᵀ", "experts": 8, "rows": 4096, "n": 768, "k": 2048, "loads": "even"}
FEW_ROWS = PRODUCT | {"rows": 512}
LADDER = {"experts": 8, "rows": 1024, "n": 16, "k": 32}
TILES = {"kernel": "grouped_gemm", "experts": 8, "rows": 4096, "n": 768, "k": 2048}
SHALLOW = TILES | {"k": 512}
GATE = {"tokens": 8192, "experts": 256, "top_k": 8, "groups": 8}


def row(part, case, peer, ms, **more):
    times = {"ms": ms, "ms_low": 0.9 * ms, "ms_high": 1.1 * ms, "runs": 9}
    return {"part": part, "case": case, "peer": peer} | times | more


ROWS = [
    row("ceiling", {"gigabytes": 1.07}, "copy", 0.5, gb_s=4000.0),
    row("ceiling", {"m = n = k": 8192}, "cuBLAS", 1.4, tflop_s=800.0),
    row("tiles", TILES, "mini_moe", 0.9),
    row("tiles", TILES, "128 × 128", 1.0),
    row("tiles", TILES, "128 × 256", 0.8),
    row("tiles", SHALLOW, "mini_moe", 0.25),
    row("tiles", SHALLOW, "128 × 128", 0.25),
    row("tiles", SHALLOW, "128 × 256", 0.5),
    row("permute", WIDE, "mini_moe", 0.3, gb_s=3400.0),
    row("combine", WIDE, "mini_moe", 0.4, gb_s=3000.0),
    row("gate", GATE, "mini_moe", 0.012),
    row("grouped_gemm", PRODUCT, "mini_moe", 0.4, tflop_s=300.0),
    row("grouped_gemm", PRODUCT, "mini_moe, tiles 1", 0.3, tflop_s=400.0),
    row("grouped_gemm", PRODUCT, "cuBLAS, dense", 0.2, tflop_s=640.0),
    row("grouped_gemm", FEW_ROWS, "mini_moe", 1.0, tflop_s=100.0),
    row("layer", LAYER, "mini_moe", 0.2, tflop_s=258.0, gb_s=900.0),
    row("layer", LAYER, "grouped_mm", 0.7),
    row("layer", LAYER, "dense", 0.1),
    {
        "part": "inside",
        "case": LAYER,
        "peer": "sort_kernel",
        "ms": 0.02,
        "launches": 2.0,
        "share": 0.1,
    },
    {"part": "layer", "case": LAYER, "peer": "Triton", "why_not": "no Triton here"},
    row("ladder", LADDER, "step 1: naive", 9, tflop_s=1.0),
    row("ladder", LADDER, "cuBLAS, dense", 0.1, tflop_s=500.0),
    row("training", {"batch": 64}, "mini_moe", 50, tokens_s=655360.0),
]
RESULT = {
    "benchmark": "gpu",
    "command": "python -m tests.benchmarks.gpu",
    "machine": {
        "device": "NVIDIA X100 (made up)",
        "date": "2001-02-03",
        "torch": "2.11.0",
        "driver": "1.2",
    },
    "check": {
        "tests": {"ok": True, "passed": 7, "failed": 0, "skipped": 1},
        "memcheck": {"ok": True, "text": "ERROR SUMMARY: 0 errors"},
        "racecheck": {"ok": None, "text": "there is no compute-sanitizer"},
        "synccheck": {"ok": False, "text": "words"},
    },
    "rows": ROWS,
    "targets": report.targets(ROWS),
}


def by_name(rows):
    return {t["target"].split(",")[0]: t for t in report.targets(rows)}


def test_targets_are_met_or_not_with_their_figures():
    found = by_name(ROWS)
    figures = {name: (pytest.approx(t["got"]), t["met"]) for name, t in found.items()}
    assert figures == {
        "permute": (85, True),
        "combine": (75, False),
        "gate": (12, True),
        "grouped_gemm": (100 * 400 / 989, True),
        "layer": (3.5, False),
    }


def test_the_layer_is_compared_with_the_faster_way_around_grouped_mm():
    faster = row("layer", LAYER, "grouped_mm, bag", 0.5)
    assert by_name([*ROWS, faster])["layer"]["got"] == pytest.approx(2.5)


def test_the_worst_shape_with_many_rows_decides():
    slow = row("grouped_gemm", PRODUCT | {"n": 7168}, "mini_moe", 1, tflop_s=98.9)
    found = by_name([*ROWS, slow])["grouped_gemm"]
    assert (found["got"], found["met"]) == (pytest.approx(10), False)
    assert found["where"] == "8 × 4096, n 7168, k 2048"


def test_what_was_not_measured_is_neither_met_nor_missed():
    assert [(t["got"], t["met"]) for t in report.targets([])] == [(None, None)] * 5
    failed = {"part": "gate", "case": GATE, "peer": "mini_moe", "why_not": "it broke"}
    assert by_name([failed])["gate"]["met"] is None


def test_the_file_comes_back_as_it_was_and_is_named_for_the_device(tmp_path):
    path = report.write(copy.deepcopy(RESULT), tmp_path / "new")
    assert path.name == "gpu_nvidia_x100_made_up.json"
    assert report.read(path) == RESULT


def test_tables_come_from_the_file_alone(tmp_path):
    path = report.write(RESULT, tmp_path)
    assert report.markdown(json.loads(path.read_text())) == report.markdown(RESULT)


def test_tables_show_figures_and_what_is_missing():
    text = report.markdown(RESULT)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    head = "NVIDIA X100 (made up), 2001-02-03, `python -m tests.benchmarks.gpu`, torch 2.11.0"
    assert lines[0].startswith(f"{head}, driver 1.2.")
    assert lines[2] == (
        "tests/gpu: 7 passed, 0 failed, 1 skipped; memcheck: clean; "
        "racecheck: there is no compute-sanitizer; synccheck: **errors**."
    )
    wanted = [
        "| gate, µs | 8192 tokens, 256 experts | ≤ 15 | 12.0 | met |",
        "| 4096, 1024, 512, 32, 4 | uniform | fwd | 0.2 ±10 % | 0.7 ±10 % | 0.1 ±10 % | n/a "
        "| 258 | 900 | 50 |",
        "n/a: Triton: no Triton here.",
        "| a bᵀ | 8 × 4096 | 768 | 2048 | even | 300 | 400 tiles 1 | 640 | 62 | 50 | 40 |",
        "| a bᵀ | 8 × 512 | 768 | 2048 | even | 100 | 100 | n/a | n/a | 12 | 10 |",
        "| 4096, 1024, 512, 32, 4, fwd | sort_kernel | 0.0200 | 2.0 | 10 |",
        "cuBLAS on 8192 × 8192 × 8192: 800 TFLOP/s, 81 % of the datasheet's 989; a large copy: "
        "4,000 GB/s.",
        "| 8 × 1024, n 16, k 32 | step 1: naive | 9 ±10 % | 1.0 | 0.2 |",
        "| training | batch 64 | mini_moe | 50 ±10 % | | | 655,360 | |",
    ]
    for line in wanted:
        assert line in lines, line


def test_the_first_question_is_answered_in_one_line():
    answer = report.tiles_answer(ROWS)
    assert "faster than 128 × 128 in 1 of 2 cases" in answer and "\n" not in answer
    assert "grouped_gemm 8 × 4096, n 768, k 2048: 1.25; " in answer and "k 512: 0.50)" in answer
    assert answer.endswith("lost more than 3 % in 1.")  # 0.9 ms where 0.8 was possible
    failed = {"part": "tiles", "case": TILES, "peer": "mini_moe", "why_not": "it broke"}
    assert "in 0 of 0 cases (speed: not measured)" in report.tiles_answer([])
    some = [failed, *(row for row in ROWS if row["peer"] != "mini_moe")]
    assert "in 0 of 0 cases" in report.tiles_answer(some)


def test_tables_are_rectangular():
    blocks = [b for b in report.markdown(RESULT).split("\n\n") if b.startswith("|")]
    assert len(blocks) == 6
    for block in blocks:
        assert len({line.count("|") for line in block.splitlines()}) == 1


def test_nothing_measured_makes_no_table():
    empty = RESULT | {"rows": [], "targets": [], "check": {}}
    assert report.markdown(empty).strip().count("\n") == 0


@pytest.mark.parametrize("path", sorted(RESULTS.glob("gpu_*.json")), ids=lambda p: p.stem)
def test_committed_results_are_the_ones_that_the_readme_shows(path: Path):
    assert report.markdown(report.read(path)).strip() in (ROOT / "kernels/README.md").read_text()
