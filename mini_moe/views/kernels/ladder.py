"""The grouped GEMM ladder: what each step moves, and what others measured on GPUs."""

import html
import json
import re
from pathlib import Path
from typing import NamedTuple

import plotly.graph_objects as go
import torch

from mini_moe.checker import KERNELS, NoCompiler, Run, output, run_file, why_not
from mini_moe.views.style import OKABE_ITO, Html, new_figure

RESULTS = KERNELS.parent / "tests" / "benchmarks" / "results"
# fp32, 4092 × 4092, NVIDIA A6000, GFLOP/s. Source: github.com/siboehm/SGEMM_CUDA, README, "GFLOPs
# at matrix size 4092x4092".
SGEMM_CUDA = {
    "naive": 309.0, "coalesced": 1986.5, "shared memory": 2980.3, "1D blocktiling": 8474.7,
    "2D blocktiling": 15971.7, "bank conflicts (linearize)": 16213.4,
    "bank conflicts (offset)": 16459.2, "double buffering": 17278.3,
    "vectorized (16 bytes)": 18237.3, "autotuning": 19721.0, "warptiling": 21779.3,
    "cuBLAS": 23249.6,
}  # fmt: skip


class Step(NamedTuple):
    """One step of the ladder, with the data its lanes moved."""

    number: int
    name: str
    asked: int  # bytes of global memory requested by lanes
    moved: int  # bytes of the sectors moved
    flops: int
    wavefronts: int  # of shared memory
    best_wavefronts: int
    correct: bool | None  # None if the run was loaded from a recording


def climb(rows: int = 128, width: int = 128) -> list[Step]:
    """Run every file of kernels/ladder/ under the checker, for one expert: [rows, width]².

    Raises: NoCompiler.
    """
    x = (torch.arange(rows * width) % 7 - 3).view(rows, width).bfloat16()
    w = (torch.arange(width * width) % 5 - 2).view(1, width, width).bfloat16()
    wanted = x.float() @ w[0].float().T
    steps, files = [], sorted((KERNELS / "ladder").glob("grouped_gemm_*.cu"))
    if not files:
        raise NoCompiler(why_not())
    for path in files:
        number = int(re.findall(r"\d+", path.stem)[0])
        ran = run_file(
            path, f"grouped_gemm_{number}", x=x, w=w, offsets=torch.tensor([0, rows]),
            out=output(rows, width, dtype=torch.bfloat16), n_rows=rows, n_experts=1,
            d_in=width, d_out=width,
        )  # fmt: skip
        correct = None
        if "out" in ran.outputs:
            correct = torch.allclose(ran["out"].float(), wanted, rtol=2**-8)
        steps.append(_step(number, title_of(path), ran, 2 * rows * width * width, correct))
    return steps


def title_of(path: Path) -> str:
    """Return the title that follows the number in the first line of a step's file."""
    first = path.read_text("utf-8").partition("\n")[0]
    return first.partition(": ")[2].rstrip(".") or path.stem


def _step(number: int, name: str, ran: Run, flops: int, correct: bool | None) -> Step:
    globals_ = [t for t in ran.traffic if t.space == "global"]
    shared = [t for t in ran.traffic if t.space == "shared"]
    return Step(
        number, name, sum(t.bytes for t in globals_), 32 * sum(t.sectors for t in globals_), flops,
        sum(t.wavefronts for t in shared), sum(t.best_wavefronts for t in shared), correct,
    )  # fmt: skip


def ladder_table(steps: list[Step]) -> Html:
    """Show the ladder as a table: traffic as recorded on the CPU, without times."""
    traffic = ("requested KB", "moved KB", "FLOPs per byte moved", "wavefronts")
    head = ("step", "idea", *traffic, "result")
    rows = [
        (
            str(s.number), s.name, f"{s.asked / 1000:,.0f}", f"{s.moved / 1000:,.0f}",
            f"{s.flops / s.moved:.2f}",
            f"{s.wavefronts:,} of {s.best_wavefronts:,} needed" if s.wavefronts else "none",
            {True: "right", False: "WRONG", None: "recorded"}[s.correct],
        )
        for s in steps
    ]  # fmt: skip
    return _table(head, rows, left=2)


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]], left: int) -> Html:
    def line(tag: str, cells: tuple[str, ...]) -> str:
        shown = ""
        for n, cell in enumerate(cells):
            align = "left" if n < left else "right"
            style = f"padding:2px 10px;text-align:{align}"
            shown += f'<{tag} style="{style}">{html.escape(cell)}</{tag}>'
        return f"<tr>{shown}</tr>"

    body = line("th", head) + "".join(line("td", row) for row in rows)
    text = "\n".join(" | ".join(row) for row in [head, *rows])
    style = "border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums"
    return Html(f'<table style="{style}">{body}</table>', text)


def published_ladder() -> go.Figure:
    """Draw another ladder, with times: S. Boehm's SGEMM on an A6000, in % of cuBLAS per step."""
    shares = {name: 100 * value / SGEMM_CUDA["cuBLAS"] for name, value in SGEMM_CUDA.items()}
    summary = (
        "Published: naive "
        f"{shares['naive']:.1f} % of cuBLAS, coalesced {shares['coalesced']:.1f} %, tiles in "
        f"shared memory {shares['shared memory']:.1f} %, warptiling {shares['warptiling']:.1f} %."
    )
    figure = new_figure(
        summary, width=820, height=430, title_text="fp32 matmul on an A6000 (S. Boehm)"
    )
    figure.add_bar(
        x=list(shares.values()), y=list(shares), orientation="h", name="% of cuBLAS",
        text=[f"{value:.1f} %" for value in shares.values()], textposition="outside",
        cliponaxis=False, marker_color=[OKABE_ITO[0]] * (len(shares) - 1) + ["#999999"],
    )  # fmt: skip
    figure.update_yaxes(autorange="reversed")
    figure.update_xaxes(title_text="% of cuBLAS", range=[0, 100])
    figure.update_layout(margin_r=90)
    return figure


def gpu_results(folder: Path = RESULTS) -> Html:
    """Show the committed GPU measurements of the ladder, if any, with device, date and command."""
    tables = [
        _measured(json.loads(path.read_text("utf-8"))) for path in sorted(folder.glob("gpu_*.json"))
    ]
    if not tables:
        text = "GPU: not yet measured"
        return Html(f"<b>{text}</b>", text)
    return Html("".join(t.html for t in tables), "\n\n".join(t.text for t in tables))


def _measured(content: dict) -> Html:
    """Show one row per step and size: time, rate, and share of cuBLAS's dense product rate."""
    rows = [row for row in content["rows"] if row.get("part") == "ladder"]
    dense = {
        json.dumps(row["case"]): row["tflop_s"]
        for row in rows
        if row["peer"].startswith("cuBLAS") and "tflop_s" in row
    }
    cells = []
    for row in rows:
        full, rate = dense.get(json.dumps(row["case"])), row.get("tflop_s")
        what = "{experts} × {rows}, n {n}, k {k}".format(**row["case"])
        share = f"{100 * rate / full:.1f}" if rate and full else ""
        times = (f"{row['ms']:.3g}", f"{rate:.3g}") if rate else (row.get("why_not", ""), "")
        cells.append((what, row["peer"], *times, share))
    machine = content["machine"]
    told = f"Measured on {machine['device']}, {machine['date']}: {content['command']}"
    head = ("experts × rows", "step", "ms", "TFLOP/s", "% of cuBLAS")
    made = _table(head, cells, left=2)
    return Html(f"<p>{html.escape(told)}</p>{made.html}", f"{told}\n{made.text}")
