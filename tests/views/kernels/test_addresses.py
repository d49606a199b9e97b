"""Address pictures agree with the recorder's counts."""

import pytest
import torch

from mini_moe.checker import output, run_cuda, why_not
from mini_moe.teaching.part4_speed.kernels import TRANSPOSE
from mini_moe.views.kernels import WarpStepper, score, touched
from mini_moe.views.kernels.addresses import instruction, instructions, turns
from mini_moe.views.kernels.warp_stepper import step_warp
from mini_moe.views.style import summary_of, table

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not() or "g++ is here")

COPY = """
__global__ void copy(const float* x, float* y, int stride, int shift) {
  y[threadIdx.x] = x[threadIdx.x * stride + shift];
}
"""
WIDE = """
__global__ void wide(const float* x, float* y) {
  __shared__ __align__(128) float tile[4 * 32 * 4];
  int lane = threadIdx.x;
  for (int i = lane; i < 4 * 32 * 4; i += 32) tile[i] = x[i];
  __syncthreads();
  float v[4];
  load_vector(tile + 4 * (lane * 4 % 128), v);
  y[lane] = v[0];
}
"""


def copied(stride=1, shift=0):
    x = torch.zeros(32 * 32 + 8)
    return run_cuda(COPY, grid=1, block=32, x=x, y=output(32), stride=stride, shift=shift)


def transposed(pitch=32):
    source = TRANSPOSE.replace("tile[32][32]", f"tile[32][{pitch}]")
    x = torch.arange(1024.0).view(32, 32)
    return run_cuda(source, grid=1, block=(32, 8), x=x, y=output(32, 32))


def written(figure):
    return [note.text for note in figure.layout.annotations if note.text]


@pytest.mark.parametrize(
    ("stride", "shift", "sectors"), [(1, 0, 4), (2, 0, 8), (8, 0, 32), (1, 3, 5)]
)
def test_map_of_global_memory_shows_the_recorders_sectors(stride, shift, sectors):
    ran = copied(stride, shift)
    figure = touched(ran, "x")
    assert ran.moved("x").sectors == sectors
    assert f"{sectors} sectors of 32 bytes are moved, 4 would suffice" in summary_of(figure)
    cells = [row["value"] for row in table(figure) if "value" in row]
    assert cells.count(2) == 32 and cells.count(1) == 8 * sectors - 32
    assert written(figure) == [str(lane) for lane in range(32)]


def test_lanes_that_share_a_number_share_a_cell():
    figure = touched(copied(stride=0), "x")
    assert written(figure) == ["0–31"]
    assert "1 sectors" in summary_of(figure) or "1 sector" in summary_of(figure)


@pytest.mark.parametrize(("pitch", "waves", "banks"), [(32, 32, 1), (33, 1, 32), (34, 2, 16)])
def test_map_of_shared_memory_shows_the_recorders_wavefronts(pitch, waves, banks):
    ran = transposed(pitch)
    assert ran.moved("tile", "read").wavefronts == 32 * waves
    summary = summary_of(touched(ran, "tile", "read"))
    assert f"32 words in {banks} of 32 banks; {waves} wavefront" in summary


@pytest.mark.parametrize("source", [TRANSPOSE, WIDE])
def test_turns_add_up_to_what_the_recorder_counts(source):
    if source is WIDE:
        ran = run_cuda(WIDE, grid=1, block=32, x=torch.zeros(512), y=output(32))
        warps = 1
    else:
        ran, warps = transposed(), 8
    for access in ("read", "write"):
        mine = [i for i in instructions(ran) if i.space == "shared" and i.access == access]
        assert sum(max(turns(i.lanes).values()) for i in mine) * warps == (
            ran.moved("tile", access).wavefronts
        )


def test_distant_rows_are_drawn_without_the_rows_between():
    figure = touched(copied(stride=32), "x")
    labels = figure.layout.yaxis.ticktext
    assert len(labels) == 32 and labels[:2] == ("byte 0", "byte 128")


def test_an_untouched_buffer_is_named_in_the_error():
    with pytest.raises(ValueError, match="no write of x at time=0; found: read of x, write of y"):
        instruction(copied(), "x", "write")
    with pytest.raises(ValueError, match="at time=1"):
        touched(copied(), "x", time=1)


def test_score_has_one_row_per_line_and_buffer():
    rows = score(transposed()).text.splitlines()
    assert len(rows) == 5
    assert rows[-1].split()[-6:] == ["4,096", "1,024", "of", "32", "needed", "3%"]
    assert "100%" in score(copied(stride=0)).text.splitlines()[1]


def test_wavefronts_are_left_out_of_a_score_without_shared_memory():
    assert "wavefronts" in score(transposed()).text
    assert "wavefronts" not in score(copied()).text


def test_stepper_walks_through_all_instructions_of_a_warp():
    stepper = WarpStepper(transposed(), TRANSPOSE)
    assert stepper.slider.max == 16
    first = stepper.view.value
    stepper.slider.value = 16
    assert stepper.view.value != first and not stepper.errors.value
    assert "line 7 writes y" in stepper.view.value or "line 7 reads tile" in stepper.view.value


def test_a_step_marks_its_line_and_states_its_cost():
    steps = instructions(transposed())
    number = next(
        n for n, s in enumerate(steps, start=1) if (s.buffer, s.access) == ("tile", "read")
    )
    shown = step_warp(steps, number, TRANSPOSE.strip())
    assert "32 lanes request 128 bytes: 32 wavefronts." in shown.text
    assert "→ 7 " in shown.html
    with pytest.raises(ValueError, match="number=17: 1 to 16 expected"):
        step_warp(steps, 17, TRANSPOSE)
