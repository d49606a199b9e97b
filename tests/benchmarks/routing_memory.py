"""Measure the memory needed to trace the routing of a long corpus, in a separate process."""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch

from mini_moe import load_hf
from mini_moe.routing import stream_routing
from mini_moe.text import load_corpus
from tests.benchmarks.common import ROOT, report

COMMAND = "python -m tests.benchmarks.run routing_memory"


def main(n_tokens: int = 1_000_000) -> None:
    """Measure a tenth of the corpus and all of it, print, write results/routing_memory.json."""
    rows = [measured_alone(count) for count in (n_tokens // 10, n_tokens)]
    report("routing_memory", COMMAND, rows)


def measured_alone(n_tokens: int) -> dict:
    """`measure` in a fresh interpreter, so that no earlier peak hides this one."""
    command = [sys.executable, "-m", "tests.benchmarks.routing_memory", str(n_tokens)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def measure(n_tokens: int) -> dict:
    """Stream the shipped model's routing and count choices by expert and domain.

    Returns the resident memory before, with model and corpus loaded, and its peak.
    """
    model = load_hf(ROOT / "data" / "checkpoints" / "tiny")
    corpus = load_corpus()
    labels = corpus.train.domains[:n_tokens]
    counts = torch.zeros(len(corpus.domain_names), model.config.n_routed_experts, dtype=torch.long)
    before, start = resident_mib(), time.perf_counter()
    for trace in stream_routing(model, corpus.train.tokens[:n_tokens], labels=labels):
        expert = trace.expert_ids[-1]
        flat = trace.labels[:, None] * counts.shape[1] + expert
        counts += flat.flatten().bincount(minlength=counts.numel()).view_as(counts)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if int(counts.sum()) != n_tokens * model.config.top_k:
        raise RuntimeError(f"{n_tokens} tokens expected, counted {int(counts.sum())} choices")
    return {
        "tokens": n_tokens,
        "before, MiB": round(before),
        "peak, MiB": round(peak),
        "additional, MiB": round(peak - before),
        "seconds": round(time.perf_counter() - start),
    }


def resident_mib() -> float:
    """Return the resident memory now (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("n_tokens", type=int)
    print(json.dumps(measure(options.parse_args().n_tokens)))
