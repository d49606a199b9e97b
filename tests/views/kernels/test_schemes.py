"""Pictures that need no run, and the GEMM ladder."""

import json

import pytest
import torch

from mini_moe.checker import KERNELS, why_not
from mini_moe.views.kernels import (
    bank_tiles,
    barrier_picture,
    climb,
    fragment_picture,
    gpu_results,
    ladder_table,
    memory_picture,
    published_ladder,
    threads_picture,
    time_layer,
)
from mini_moe.views.style import summary_of, table


def test_every_thread_has_its_number():
    figure = threads_picture(grid=2, block=64, n=100)
    cells = table(figure)
    assert [row["text"] for row in cells] == [str(i) for i in range(128)]
    assert sum(row["value"] == 0 for row in cells) == 28


def test_a_block_that_fills_no_warp_has_a_short_row():
    assert len(threads_picture(grid=1, block=40, n=40).data[0].z[1]) == 8


def test_memories_carry_their_published_numbers():
    text = " ".join(note.text for note in memory_picture().layout.annotations)
    assert all(number in text for number in ("228 KB", "3.35 TB/s", "132 SMs", "80 GB"))


def test_reads_are_early_only_without_a_barrier():
    figure = barrier_picture((1, 3, 1.5, 4, 2))
    early = [row for row in table(figure) if row["series"] == "reads too early"]
    assert len(early) == 2 and "Without a barrier 2 of 4" in summary_of(figure)
    assert "Without a barrier 0 of 2" in summary_of(barrier_picture((1, 1, 1)))


def test_padding_and_swizzle_spread_a_column_over_all_banks():
    told = summary_of(bank_tiles())
    assert "rows of 8: 1 of 8 banks; rows of 9: 8 of 8 banks; rows of 8, column ^ row: 8" in told


def test_the_swizzle_can_be_hidden_until_it_is_introduced():
    assert "^" not in summary_of(bank_tiles(swizzle=False))
    assert len(bank_tiles(swizzle=False).data) == 2


def test_fragment_shows_lane_and_register():
    lanes = torch.arange(128).view(16, 8) // 4
    figure = fragment_picture(lanes, torch.arange(128).view(16, 8) % 4, "C", (9, 5))
    assert table(figure)[0]["text"] == "0"
    assert len(figure.layout.shapes) == 1


@pytest.mark.skipif(bool(why_not()), reason=why_not() or "g++ is here")
def test_every_step_of_the_ladder_is_climbed_and_right():
    steps = climb()
    assert [s.number for s in steps] == list(range(1, len(steps) + 1))
    assert len(steps) == len(list((KERNELS / "ladder").glob("grouped_gemm_*.cu")))
    assert all(s.correct for s in steps)
    assert steps[0].moved > 200 * steps[1].moved
    assert ladder_table(steps).text.count("right") == len(steps)


def test_published_ladder_ends_at_its_reference():
    shares = [row["x"] for row in table(published_ladder())]
    assert shares == sorted(shares) and shares[-1] == 100 and round(shares[0], 1) == 1.3


def test_gpu_results_are_read_or_reported_missing(tmp_path):
    assert gpu_results(tmp_path).text == "GPU: not yet measured"
    case = {"experts": 8, "rows": 1024, "n": 4096, "k": 4096}
    rows = [
        {"part": "ladder", "case": case, "peer": "step 1: naive", "ms": 100.0, "tflop_s": 2.0},
        {"part": "ladder", "case": case, "peer": "cuBLAS, dense", "ms": 1.0, "tflop_s": 500.0},
        {"part": "ladder", "case": case, "peer": "step 2: tiles", "why_not": "out of memory"},
        {"part": "gate", "case": {}, "peer": "mini_moe", "ms": 1.0},
    ]
    machine = {"device": "a test", "date": "2026-01-01"}
    content = {"machine": machine, "command": "python -m x", "rows": rows}
    (tmp_path / "gpu_test.json").write_text(json.dumps(content))
    text = gpu_results(tmp_path).text
    assert "Measured on a test, 2026-01-01: python -m x" in text
    assert "step 1: naive | 100 | 2 | 0.4" in text and "out of memory" in text
    assert "gate" not in text


def test_every_form_of_the_layer_is_timed_in_every_round():
    times = time_layer(rounds=2)
    assert {"definition", "sorted rows"} <= set(times) <= {"definition", "sorted rows", "compiled"}
    assert all(len(seconds) == 2 and min(seconds) > 0 for seconds in times.values())
