"""Checks before anything is timed: the GPU's tests on poisoned memory, and compute-sanitizer.

As a plugin (`pytest -p tests.benchmarks.gpu.check`) it fills the allocator's memory with NaN before
every test. As a program (`python -m tests.benchmarks.gpu.check`) it runs every kernel once, small.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from tests.benchmarks.gpu.libraries import LIBRARY, ROOT, Launchers, ladder_steps

TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
SMALL = [  # tokens, d_model, d_expert, experts, top_k: full and ragged tiles, odd widths
    (65, 64, 64, 8, 2),
    (3, 40, 24, 16, 4),
    (130, 136, 72, 4, 3),
    (5, 33, 17, 4, 2),
]
POISON_BYTES = ([1 << 28] * 4, [1 << 19] * 128)  # the allocator's large and small blocks


@pytest.fixture(autouse=True)
def poisoned_memory():
    """Make anything a kernel leaves unwritten NaN: the allocator hands these blocks out next."""
    if torch.cuda.is_available():
        for sizes in POISON_BYTES:
            blocks = [torch.full((size // 4,), torch.nan, device="cuda") for size in sizes]
            del blocks


def check(seconds: float) -> dict:
    """Run the tests and the four tools, all in parallel: {tests, memcheck, …}."""
    with ThreadPoolExecutor(1 + len(TOOLS)) as pool:
        tests = pool.submit(run_tests, seconds)
        tools = {tool: pool.submit(sanitize, tool, seconds) for tool in TOOLS}
        return {"tests": tests.result()} | {tool: run.result() for tool, run in tools.items()}


def run_tests(seconds: float, folder: str = "tests/gpu") -> dict:
    """Run pytest in a folder: {ok, passed, failed, skipped, seconds, text}."""
    plugin = ("-p", "tests.benchmarks.gpu.check", "-p", "no:cacheprovider")
    command = [sys.executable, "-m", "pytest", folder, "-q", *plugin]
    start = time.monotonic()
    code, text = output(command, seconds)
    counts = {word: count(text, word) for word in ("passed", "failed", "skipped", "error")}
    counts["failed"] += counts.pop("error")
    ok = code == 0 and counts["passed"] > 0
    took = round(time.monotonic() - start, 1)
    return {"ok": ok} | counts | {"seconds": took, "text": "" if ok else text[-3000:]}


def count(text: str, word: str) -> int:
    """Return 12 if pytest's last line says "12 passed", with `word` "passed"."""
    found = re.search(rf"(\d+) {word}", text.strip().splitlines()[-1] if text.strip() else "")
    return int(found[1]) if found else 0


def sanitize(tool: str, seconds: float) -> dict:
    """Run one tool over `small_runs`: {ok, text}; ok is null if the tool can't run."""
    if not shutil.which("compute-sanitizer"):
        return {"ok": None, "text": "there is no compute-sanitizer"}
    command = ["compute-sanitizer", "--tool", tool, "--print-limit", "10"]
    command += ["--report-api-errors", "no"]  # torch probes for features that may be missing
    command += ["--error-exitcode", "9", sys.executable, "-m", "tests.benchmarks.gpu.check"]
    code, text = output(command, seconds, {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"})
    return verdict(code, text)


def verdict(code: int | None, text: str) -> dict:
    """Interpret a tool's exit code and output."""
    found = [line for line in text.splitlines() if "ERROR SUMMARY" in line or "RACECHECK" in line]
    if "not supported" in text or "LibraryNotLoaded" in text:
        refusals = [line for line in text.splitlines() if "not supported" in line]
        return {"ok": None, "text": (refusals or ["it doesn't support this device"])[0].strip("= ")}
    if code is None:
        return {"ok": None, "text": "it did not finish in time"}
    if code == 0:
        return {"ok": True, "text": found[-1].strip("= ") if found else "no error"}
    return {"ok": False, "text": text[-3000:]}


def output(command: list[str], seconds: float, more: dict | None = None) -> tuple[int | None, str]:
    """Run a command; return its exit code, or None if it timed out, and what it printed."""
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=os.environ | (more or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=max(seconds, 1),
        )
    except subprocess.TimeoutExpired as late:
        text = late.stdout or b""
        return None, text.decode(errors="replace") if isinstance(text, bytes) else text
    return done.returncode, done.stdout


def small_runs(device: str) -> None:
    """Run every kernel at least once, small: the layer and its gradients, the gate, the ladder."""
    from mini_moe.ops import compiled, describe, moe_experts
    from tests.benchmarks.gpu.cases import choose_experts

    if device != "cpu" and compiled.CUDA_WHY_NOT:
        raise RuntimeError(describe())
    for tokens, d_model, d_expert, experts, top_k in SMALL:
        ids, gates = choose_experts(tokens, experts, top_k, "zipf")
        ids = ids.to(device)
        for dtype in (torch.bfloat16, torch.float32):
            make = {"device": device, "dtype": dtype}
            leaves = [
                torch.randn(tokens, d_model, **make),
                gates.to(device),
                torch.randn(experts, 2, d_expert, d_model, **make),
                torch.randn(experts, d_model, d_expert, **make),
            ]
            x, weights, gate_up, down = [leaf.requires_grad_() for leaf in leaves]
            moe_experts(x, ids, weights, gate_up, down).sum().backward()
        torch.ops.mini_moe.sort_rows(ids, experts)
        logits = torch.randn(tokens, experts, device=device, requires_grad=True)
        settings = (top_k, 2, 1, True, False, True, 2.5) if top_k <= experts // 2 else None
        settings = settings or (top_k, 1, 1, True, True, False, 1.0)
        gates, _, scores, _ = torch.ops.mini_moe.topk_gate(logits, None, *settings)
        (gates.sum() + scores.sum()).backward()


def small_ladder(launchers: Launchers, device: str) -> None:
    """Run every step of the ladder on ragged loads: 0, 1, 64 and 65 rows per expert."""
    offsets = torch.tensor([0, 0, 1, 65, 130], device=device)
    x = torch.randn(130, 72, device=device, dtype=torch.bfloat16)
    w = torch.randn(4, 80, 72, device=device, dtype=torch.bfloat16)
    out = x.new_empty(130, 80)
    for number in ladder_steps():
        launchers.call(f"grouped_gemm_{number}", x, w, offsets, out, 130, 4, 72, 80)


if __name__ == "__main__":
    small_runs("cuda")
    if LIBRARY.exists():
        small_ladder(Launchers(), "cuda")
    torch.cuda.synchronize()
