"""Tokens generated per second: this package and transformers' `generate`, same weights and tokens.

Two models in float32: the shipped one, and `presets.small()` (12.3 million parameters) with random
weights. Each row has a prompt of 32 tokens, then 64 greedy ones after the first; batches of 1 and
8. "prefill" reads 256 tokens per row and writes one. Peers alternate in one process; transformers
is measured with each of its expert implementations, and the ratio is to the best of them.
"""

import itertools
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from transformers import DeepseekV3ForCausalLM

from mini_moe import Transformer, load_hf, presets, save_hf
from mini_moe.inference import LatentCache, Sampling, complete
from mini_moe.text import data_folder
from tests.benchmarks.common import alternate, report

PROMPT, WRITTEN, LONG = 32, 64, 256
BATCHES = (1, 8)
IMPLEMENTATIONS = ("eager", "grouped_mm")
GREEDY = Sampling(temperature=0.0)


def main(rounds: int = 9) -> None:
    """Measure, print, write results/decoding.json."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.manual_seed(0)
    models = {
        "shipped": load_hf(data_folder() / "checkpoints" / "tiny"),
        "12.3M": Transformer(presets.small()).eval(),
    }
    rows, memory = [], []
    for (name, model), batch in itertools.product(models.items(), BATCHES):
        peers = writers(model)
        rows += compared(name, batch, peers, rounds)
        memory.append(cache_bytes(name, batch, model, peers))
    report(
        "decoding",
        "python -m tests.benchmarks.run decoding",
        rows,
        cache=memory,
        transformers=transformers.__version__,
        rounds=rounds,
    )


def writers(model: Transformer) -> dict[str, Callable[[torch.Tensor, int], list[list[int]]]]:
    """Return each peer as a function of prompts [batch, length] and how many tokens to write."""

    def ours(prompts: torch.Tensor, written: int) -> list[list[int]]:
        return [one.tokens for one in complete(model, prompts.tolist(), written, sampling=GREEDY)]

    peers = {"mini_moe": ours}
    with tempfile.TemporaryDirectory() as folder:
        save_hf(model, Path(folder), dtype=torch.float32)
        for experts in IMPLEMENTATIONS:
            theirs = DeepseekV3ForCausalLM.from_pretrained(
                folder, experts_implementation=experts
            ).eval()
            peers[f"transformers {experts}"] = Theirs(theirs)
    return peers


class Theirs:
    """transformers' greedy `generate`, without early stopping."""

    def __init__(self, model: DeepseekV3ForCausalLM) -> None:
        self.model, self.cache = model, None

    def __call__(self, prompts: torch.Tensor, written: int) -> list[list[int]]:
        found = self.model.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            max_new_tokens=written,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
            return_dict_in_generate=True,
        )
        self.cache = found.past_key_values
        return found.sequences[:, prompts.shape[1] :].tolist()


def compared(name: str, batch: int, peers: dict, rounds: int) -> list[dict]:
    """Return a row per peer: tokens per second when writing and when reading a prompt."""
    vocab = 4096
    short, long = (torch.randint(1, vocab, (batch, length)) for length in (PROMPT, LONG))
    calls = {}
    for peer, write in peers.items():
        calls[peer, "first"] = lambda write=write: write(short, 1)
        calls[peer, "all"] = lambda write=write: write(short, 1 + WRITTEN)
        calls[peer, "prefill"] = lambda write=write: write(long, 1)
    seconds = alternate(calls, rounds)
    wanted = peers["mini_moe"](short, 1 + WRITTEN)
    rows = []
    for peer, write in peers.items():
        pairs = zip(seconds[peer, "all"], seconds[peer, "first"], strict=True)
        decode = statistics.median(whole - first for whole, first in pairs)
        prefill = statistics.median(seconds[peer, "prefill"])
        rows.append(
            {
                "model": name,
                "batch": batch,
                "peer": peer,
                "written tokens/s": round(batch * WRITTEN / decode),
                "ms a step": round(1e3 * decode / WRITTEN, 3),
                "read tokens/s": round(batch * LONG / prefill),
                "same tokens": write(short, 1 + WRITTEN) == wanted,
            }
        )
    best = {
        kind: max(row[kind] for row in rows if row["peer"].startswith("transformers"))
        for kind in ("written tokens/s", "read tokens/s")
    }
    for row in rows:
        for kind, fastest in best.items():
            row[f"{kind.split()[0]} × best transformers"] = round(row[kind] / fastest, 2)
    return rows


def cache_bytes(name: str, batch: int, model: Transformer, peers: dict) -> dict:
    """Return the bytes of both caches for the same LONG + 1 tokens; the last is never read."""
    theirs = peers[f"transformers {IMPLEMENTATIONS[0]}"]
    theirs(torch.randint(1, 4096, (batch, LONG)), 1)
    held = sum(t.nbytes for layer in theirs.cache.layers for t in (layer.keys, layer.values))
    ours = LatentCache(model, batch, LONG).n_bytes
    return {"model": name, "batch": batch, "ours": ours, "transformers": held, "×": held / ours}
