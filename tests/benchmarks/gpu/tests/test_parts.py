"""Every part runs from its first to its last row on the CPU, at tiny sizes."""

import json
import re
import shutil

import pytest
import torch

from mini_moe.checker import KERNELS, build
from mini_moe.ops import compiled
from tests.benchmarks.gpu import check, clock
from tests.benchmarks.gpu.libraries import ladder_steps, sources
from tests.benchmarks.gpu.parts import kernels, layers, products, training
from tests.benchmarks.gpu.parts.bench import Rows, line
from tests.benchmarks.gpu.parts.inside import look_inside, short
from tests.benchmarks.gpu.report import find, tiles_answer
from tests.benchmarks.gpu.tests.stand_ins import CheckedLaunchers, cpu_bench

needs_library = pytest.mark.skipif(bool(compiled.WHY_NOT), reason=compiled.WHY_NOT or "it is built")


@pytest.fixture(scope="module")
def launchers(tmp_path_factory):
    if not shutil.which("g++"):
        pytest.skip("needs g++ to compile the kernels for the CPU")
    products_alone = [path for path in sources() if path.stem.startswith("grouped")]
    return CheckedLaunchers(build(products_alone, tmp_path_factory.mktemp("products"), "products"))


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch):
    monkeypatch.setattr(clock, "FEWEST", 2)
    monkeypatch.setattr(clock, "MOST", 2)


def measured(part, launchers=None):
    bench, rows = cpu_bench(launchers=launchers)
    part(bench)
    return rows


def failures(rows):
    """Return the peers that were left out, with the first words of the reason."""
    return {(r["part"], r["peer"]): r["why_not"] for r in rows if "why_not" in r}


@needs_library
def test_kernels_are_timed_and_right():
    rows = measured(kernels.run)
    assert failures(rows) == {}
    parts = {row["part"] for row in rows}
    assert parts == {"ceiling", "gate", "router", "sort", "permute", "combine"}
    assert all(row["error"] < 1e-2 for row in rows if row["peer"] == "mini_moe")


def test_products_are_timed_and_right_with_each_size_of_tiles(launchers):
    rows = measured(products.run, launchers)
    wrong = {peer: why for (_, peer), why in failures(rows).items()}
    assert set(wrong) <= {"Triton"}, wrong
    operations = {row["case"]["operation"] for row in rows}
    plain, by_token = {"a bᵀ", "a b", "aᵀ b"}, {"a[token] b", "a[token]ᵀ b", "aᵀ b[token]"}
    assert operations == plain | by_token | {"swiglu(a bᵀ)"}
    assert len(find(rows, "grouped_gemm", "mini_moe, tiles 1", operation="a bᵀ")) == 2


def test_both_large_sizes_of_tiles_are_compared_and_right(launchers):
    rows = measured(products.run_tiles, launchers)
    assert failures(rows) == {}
    kernels_seen = [row["case"]["kernel"] for row in rows if row["peer"] == "128 × 256"]
    assert kernels_seen == ["grouped_swiglu", "grouped_gemm"]
    assert "faster than 128 × 128 in 0 of 2 cases" in tiles_answer(
        rows
    )  # every call takes the same time


@pytest.mark.parametrize("name", products.WIDE)
def test_the_two_sizes_of_tiles_are_what_the_sources_say(name):
    text = (KERNELS / f"{name}.cu").read_text()
    sizes = re.findall(r"start_tensor_cores<Tiles<(\d+), (\d+), ", text)
    assert [sizes[number] for number in products.WIDE[name]] == [("128", "128"), ("128", "256")]


def test_without_launchers_their_peers_say_so():
    why = failures(measured(products.run_ladder))
    assert why["ladder", "step 1: naive"] == "the launchers were not built"
    assert why["ladder", "mini_moe"] == "the launchers were not built"


def test_the_ladder_has_all_its_steps_and_a_ceiling(launchers):
    rows = measured(products.run_ladder, launchers)
    assert failures(rows) == {}
    names = [row["peer"] for row in rows]
    steps = [name for name in names if name.startswith("step")]
    assert len(steps) == len(ladder_steps()) and steps[0] == "step 1: naive"
    assert names[-2:] == ["mini_moe", "cuBLAS, dense"]


@needs_library
def test_small_runs_for_the_sanitizer_reach_the_gate_the_sort_and_the_layer():
    check.small_runs("cpu")


def test_a_small_run_of_the_ladder_breaks_no_rule(launchers):
    check.small_ladder(launchers, "cpu")


def test_the_layer_is_timed_in_every_way():
    rows = measured(layers.run)
    assert {peer for _, peer in failures(rows)} <= {"Triton", "padded bmm"}  # the latter: one token
    graph = {row["peer"] for row in rows if row["case"]["mode"] == "graph"}
    assert graph == set(layers.LAUNCH_ONLY)
    passes = [(row["case"]["pass"], row["case"]["routing"]) for row in find(rows, "layer", "dense")]
    assert set(passes) == {(p, r) for p in layers.PASSES.values() for r in ("uniform", "zipf")}


def test_the_layer_is_also_timed_kernel_by_kernel():
    """Without a GPU the profiler sees operators instead."""
    rows = find(measured(layers.run), "inside")
    assert {row["case"]["pass"] for row in rows} == set(layers.PASSES.values())
    for case in layers.PASSES.values():
        shares = [row["share"] for row in rows if row["case"]["pass"] == case]
        assert sum(shares) == pytest.approx(1) and shares == sorted(shares, reverse=True)
    assert all(row["launches"] >= 1 for row in rows if row["peer"] == "mini_moe::experts_forward")


def test_a_look_inside_that_fails_ends_no_part():
    def broken():
        raise RuntimeError("no profiler here")

    bench, rows = cpu_bench()
    look_inside(bench, {"tokens": 8}, broken)
    assert rows == [{"left_out": "inside {'tokens': 8}: RuntimeError: no profiler here"}]
    hurried, rows = cpu_bench(seconds=1)
    look_inside(hurried, {"tokens": 8}, broken)
    assert rows == [{"left_out": "inside {'tokens': 8}: no time left"}]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "void (anonymous namespace)::tensor_core_kernel<Tiles<128, 256, 32, 4, 2, 4>, true>"
            "((anonymous namespace)::Product<__nv_bfloat16>, int, int)",
            "tensor_core_kernel<Tiles<128, 256, 32, 4, 2, 4>, true> of Product",
        ),
        (
            "void (anonymous namespace)::combine_kernel<float, 4>(float const*)",
            "combine_kernel<float, 4>",
        ),
        ("Memcpy DtoD (Device -> Device)", "Memcpy DtoD "),
    ],
)
def test_names_of_kernels_are_shortened_to_what_tells_them_apart(name, expected):
    assert short(name) == expected


def test_published_shapes_use_the_same_peers():
    rows = measured(layers.run_shapes)
    assert len(find(rows, "layer", "mini_moe")) == 3


def test_a_layer_that_does_not_fit_is_named(monkeypatch):
    def too_large(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(layers, "Layer", too_large)
    rows = measured(layers.run_shapes)
    assert all("does not fit into memory" in row["left_out"] for row in rows) and rows


def test_training_counts_tokens():
    rows = measured(training.run)
    assert failures(rows) == {}
    assert [row["peer"] for row in rows] == ["mini_moe", "PyTorch path"]
    assert rows[0]["tokens_s"] == pytest.approx(16 / 1e-3)


def test_rows_reach_the_disk_at_once(tmp_path, capsys):
    write = Rows(tmp_path / "rows.jsonl")
    write({"part": "gate", "case": {"tokens": 8}, "peer": "mini_moe", "ms": 1.5, "gb_s": 2.0})
    write({"part": "gate", "case": {"tokens": 8}, "peer": "other", "why_not": "it broke"})
    write({"left_out": "more"})
    lines = (tmp_path / "rows.jsonl").read_text().splitlines()
    assert [json.loads(text).get("peer") for text in lines] == ["mini_moe", "other", None]
    shown = capsys.readouterr().out
    assert "1.5000 ms  gb_s 2" in shown and "n/a: it broke" in shown and "left_out: more" in shown


def test_a_row_names_its_case():
    row = {"part": "ladder", "case": {"n": 4, "k": 5}, "peer": "step 1", "ms": 1.0}
    assert "n 4, k 5" in line(row)
