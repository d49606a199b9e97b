"""What takes the GPU's place in tests: a clock that ticks by itself, launchers made of torch."""

import torch
import torch.nn.functional as F

from tests.benchmarks.gpu.clock import Clock, TimeKeeper
from tests.benchmarks.gpu.parts.bench import Bench


class Ticks:
    """A clock whose every reading is one step later than the one before."""

    def __init__(self, step: float = 1e-3) -> None:
        self.time, self.step = 0.0, step

    def __call__(self) -> float:
        self.time += self.step
        return self.time


class TorchLaunchers:
    """The launchers' contract in torch: the same names and arguments, the same results."""

    def configurations(self, name: str) -> int:
        return 2 if name == "grouped_gemm" else 0

    def call(self, name: str, *arguments) -> None:
        if name.endswith("_configured"):
            name, arguments = name.removesuffix("_configured"), arguments[1:]
        if name.startswith("grouped_gemm_"):
            x, w, offsets, out, n_rows, n_experts, d_in, d_out = arguments
            plain = (x, 1, None, 0, w, offsets, out, n_rows, n_experts, d_in, d_out, 1)
            self.grouped_gemm(*plain)
        else:
            getattr(self, name)(*arguments)

    def grouped_gemm(
        self, a, kind, a_row, n_source, b, offsets, out, n_rows, n_experts, k, n, transposed
    ) -> None:
        assert kind == 1 and out.shape == (n_rows, n) and len(offsets) == n_experts + 1
        rows = a if a_row is None else a[a_row]
        assert rows.shape == (n_rows, k)
        for e, part in parts(offsets):
            out[part] = rows[part] @ (b[e].T if transposed else b[e])

    def grouped_swiglu(
        self, x, kind, token, n_tokens, gate_up, offsets, hidden, saved, n_rows, n_experts, d, width
    ) -> None:
        assert kind == 1 and x.shape == (n_tokens, d) and hidden.shape == (n_rows, width)
        weights = gate_up.view(n_experts, 2, width, d)
        for e, part in parts(offsets):
            gate, up = (x[token[part]] @ half.T for half in weights[e])
            hidden[part] = F.silu(gate) * up
            saved[part] = torch.cat((gate, up), dim=-1)

    def grouped_wgrad(
        self, a, a_row, n_a, b, b_row, n_b, kind, offsets, out, n_rows, n_experts, m, n
    ) -> None:
        assert kind == 1 and a_row is None and b_row is None and n_a == n_b == n_rows
        assert out.shape == (n_experts, m, n)
        for e, part in parts(offsets):
            out[e] = a[part].T @ b[part]


def parts(offsets):
    """Each expert with the slice of its rows."""
    ends = offsets.tolist()
    return enumerate(slice(begin, end) for begin, end in zip(ends, ends[1:], strict=False))


def cpu_bench(seconds: float = 1e6, step: float = 1e-3, launchers=None) -> tuple[Bench, list]:
    """A bench of tiny sizes whose clocks are counters, and the list its rows go to."""
    rows: list[dict] = []
    clock = Clock("cpu", now=Ticks(step), flush_bytes=64)
    keeper = TimeKeeper(seconds, now=Ticks(0.0))
    return Bench(clock, keeper, "tiny", rows.append, launchers or TorchLaunchers()), rows
