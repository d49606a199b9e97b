r"""Tokens written and read per second: this package and llama.cpp, same weights, alternating.

    npm pack @node-llama-cpp/linux-x64@3.22.1   # in a scratch folder; then tar xzf *.tgz
    pip install --no-deps --target SCRATCH/python gguf
    PYTHONPATH=SCRATCH/python python -m tests.benchmarks.llama_cpp --llama \
        SCRATCH/package/bins/linux-x64

Three models (the shipped one; 12.3M and 407M random parameters), fp32 and bf16, 1 and 2 threads.
Writing means 64 greedy tokens after a prompt of 32; reading means a prompt of 256. Before timing,
the logits of both are compared with those of the same weights in fp32; "same tokens" is how many
tokens both write before they first differ. Both keep caches in the type of the weights. "byte
limit" is the time torch takes to sum as many bytes as the weights that one token reads.
"""

import argparse
import dataclasses
import itertools
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from mini_moe import ModelConfig, Transformer, load_hf, presets
from mini_moe.inference import Decoder, LatentCache
from mini_moe.text import data_folder
from tests.benchmarks.common import alternate, report
from tests.benchmarks.llama_gguf import write_gguf
from tests.benchmarks.llama_library import LlamaCpp, load

PROMPT, WRITTEN, LONG = 32, 64, 256
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
MODELS = ("shipped", "12.3M", "407M")


def main() -> None:
    """Measure, print, write results/llama_cpp.json."""
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--llama", type=Path, required=True, help="folder of libllama*.so")
    options.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    options.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    options.add_argument("--rounds", type=int, default=9)
    given = options.parse_args()
    library, rows = load(given.llama), []
    for name, kind in itertools.product(given.models, TYPES):
        model = made(name).to(TYPES[kind])
        with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
            write_gguf(model, path := Path(folder) / "model.gguf")
            theirs = LlamaCpp(library, path, model.config.vocab_size, kind == "bfloat16")
            theirs.use_threads(1)
            peers = {"mini_moe": Ours(model), "llama.cpp": theirs}
            apart = distances(model, peers)
            for threads in given.threads:
                torch.set_num_threads(threads)
                theirs.use_threads(threads)
                about = {"model": name, "type": kind, "threads": threads}
                rows += [about | row for row in compared(model, peers, apart, given.rounds)]
            theirs.close()
    command = "python -m tests.benchmarks.llama_cpp --llama FOLDER"
    report("llama_cpp", command, rows, rounds=given.rounds)


def made(name: str) -> Transformer:
    """Return the shipped model, or random weights of a given size."""
    if name == "shipped":
        return load_hf(data_folder() / "checkpoints" / "tiny")
    torch.manual_seed(0)
    return Transformer(presets.small() if name == "12.3M" else large()).eval()


def large() -> ModelConfig:
    """407 million parameters: too many for any cache, even counting only those one token reads."""
    return dataclasses.replace(
        presets.small(),
        d_model=1024,
        n_layers=8,
        d_ff=4096,
        n_heads=16,
        q_lora_rank=384,
        kv_lora_rank=256,
        qk_nope_head_dim=64,
        qk_rope_head_dim=32,
        v_head_dim=64,
        n_routed_experts=32,
        d_expert=512,
    )


class Ours:
    """One sequence of this package's model, with the same calls as `LlamaCpp`."""

    def __init__(self, model: Transformer) -> None:
        self.decoder, self.model = Decoder(model), model
        self.forget()

    def forget(self) -> None:
        """Empty the cache."""
        self.cache = LatentCache(self.model, 1, min(512, self.model.config.max_seq_len))

    def read(self, tokens: list[int]) -> np.ndarray:
        """Read more tokens; return the logits after the last."""
        hidden = self.decoder.read(self.decoder.as_tokens([tokens]), self.cache)
        return self.decoder.logits(hidden[0, -1]).float().numpy()


def written(peer: Ours | LlamaCpp, prompt: list[int], number: int) -> list[int]:
    """Write a number of greedy tokens; the last one is not read."""
    return [int(logits.argmax()) for logits in passes(peer, prompt, number)]


def passes(peer: Ours | LlamaCpp, prompt: list[int], number: int) -> Iterator[np.ndarray]:
    """Return the logits after the prompt, then after each most likely token."""
    peer.forget()
    logits = peer.read(prompt)
    yield logits
    for _ in range(number - 1):
        logits = peer.read([int(logits.argmax())])
        yield logits


def distances(model: Transformer, peers: dict[str, Ours | LlamaCpp]) -> dict[str, float]:
    """Return how far each peer's logits are from fp32 with the same weights, median of 64 passes.

    (Not the mean, since a pass in which rounding changes the choice of an expert is far off.)

    Raises: ValueError if they are so far that they must be another model's.
    """
    exact = Ours(made_float(model))
    prompt = tokens_of(PROMPT)
    text = written(exact, prompt, WRITTEN)
    wanted, apart = forced(exact, prompt, text), {}
    for name, peer in peers.items():
        away = np.linalg.norm(forced(peer, prompt, text) - wanted, axis=1)
        apart[name] = float(np.median(away / np.linalg.norm(wanted, axis=1)))
        close = 0.1 if model.embed_tokens.weight.dtype == torch.bfloat16 else 0.01
        if not apart[name] < close:
            raise ValueError(f"{name}: logits within {close} expected, got {apart[name]}")
    return apart


def made_float(model: Transformer) -> Transformer:
    """Return the same weights in fp32."""
    wide = Transformer(model.config).eval()
    wide.load_state_dict(model.state_dict())
    return wide


def forced(peer: Ours | LlamaCpp, prompt: list[int], text: list[int]) -> np.ndarray:
    """Return the logits [passes, vocab] of a prompt and a given text, token by token."""
    peer.forget()
    return np.stack([peer.read(part).copy() for part in [prompt, *([token] for token in text)]])


def tokens_of(length: int) -> list[int]:
    """Return arbitrary tokens, the same for all peers."""
    return torch.randint(1, 4096, (length,), generator=torch.Generator().manual_seed(0)).tolist()


def compared(model: Transformer, peers: dict, apart: dict[str, float], rounds: int) -> list[dict]:
    """Return a row per peer, and the ratio of ours to theirs."""
    short, long, calls = tokens_of(PROMPT), tokens_of(LONG), {}
    for name, peer in peers.items():
        calls[name, "first"] = lambda peer=peer: written(peer, short, 1)
        calls[name, "all"] = lambda peer=peer: written(peer, short, 1 + WRITTEN)
        calls[name, "read"] = lambda peer=peer: written(peer, long, 1)
    weights = torch.ones(active_bytes(model) // 4)
    calls["limit", "sum"] = lambda: weights.sum()
    seconds, rows = alternate(calls, rounds), []
    limit = statistics.median(seconds["limit", "sum"])
    for name in peers:
        pairs = zip(seconds[name, "all"], seconds[name, "first"], strict=True)
        step = statistics.median(whole - first for whole, first in pairs) / WRITTEN
        read = LONG / statistics.median(seconds[name, "read"])
        rows.append({"peer": name, "ms a step": 1e3 * step, "written/s": 1 / step, "read/s": read})
        rows[-1] |= {"from fp32": apart[name], "of the byte limit": limit / step}
    texts = [written(peer, short, 1 + WRITTEN) for peer in peers.values()]
    rows[0]["same tokens"] = sum(itertools.accumulate(map(int.__eq__, *texts), int.__and__))
    for kind in ("written/s", "read/s"):
        rows[0][f"{kind} × llama.cpp"] = rows[0][kind] / rows[1][kind]
    return rows


def active_bytes(model: Transformer) -> int:
    """Return the bytes of weights one token reads: all except unchosen experts and an embedding."""
    config, used = model.config, 0
    for name, weight in model.named_parameters():
        if name.startswith("mtp") or (name.startswith("embed") and not config.tie_embeddings):
            continue
        share = config.top_k / config.n_routed_experts if ".experts." in name else 1
        used += int(weight.nbytes * share)
    return used


if __name__ == "__main__":
    main()
