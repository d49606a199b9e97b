"""One run of an arm, from initial weights to everything that is recorded about it."""

import dataclasses
import datetime
import os
import platform
import statistics
from pathlib import Path

import numpy as np
import psutil
import torch
from jaxtyping import Int
from torch import Tensor

from mini_moe.config import TrainConfig
from mini_moe.device import device_of
from mini_moe.experiments.designs import Arm
from mini_moe.experiments.knock_outs import knock_out_losses
from mini_moe.model import Routing, Transformer
from mini_moe.ops import describe
from mini_moe.routing import max_violation
from mini_moe.text import Corpus, Split, windows
from mini_moe.training import train
from mini_moe.training.balance import count_choices
from mini_moe.training.speed import flops_per_token

EVERY = 10  # optimizer steps averaged into each point of a curve
LAST = 20  # MaxVio is averaged over this many final training batches


def measure(experiment: str, name: str, arm: Arm, seed: int, corpus: Corpus) -> dict | None:
    """Train an arm with one seed; return the record of the run, or None if it was interrupted."""
    config = arm.at_seed(seed)
    corpus = only_domains(corpus, arm.domains)
    run = train(arm.model, config, corpus, progress=False)
    if run.stopped:
        return None
    total, active = run.model.count_parameters()
    record = {
        "experiment": experiment,
        "arm": name,
        "seed": seed,
        **settings(arm, seed),
        "parameters": {"total": total, "active": active},
        "flops_per_token": flops_per_token(run.model, config.seq_len),
        "curve": curve(run.log, "loss"),  # [step, seconds, training loss over EVERY steps]
        "validation": rounded(run.log[-1]["validation"]),
    }
    if arm.model.n_moe_layers:
        record |= routing_record(run.model, run.log, config, corpus)
    if arm.knock_outs:
        record["knock_outs"] = knock_out_losses(run.model, record["load"], corpus, config)
    return record


def settings(arm: Arm, seed: int) -> dict[str, dict]:
    """Return all settings that a run depends on, as they are stored in the file."""
    data = {"data": {"domains": arm.domains}} if arm.domains else {}
    return {
        "model_config": dataclasses.asdict(arm.model),
        "train_config": dataclasses.asdict(arm.at_seed(seed)),
    } | data


def only_domains(corpus: Corpus, names: tuple[str, ...]) -> Corpus:
    """Restrict the corpus to some domains, keeping the order of documents; no names: all of it.

    Raises: ValueError for a domain that the corpus doesn't have.
    """
    if not names:
        return corpus
    splits = {}
    for side in ("train", "validation"):
        whole = getattr(corpus, side)
        labels = np.asarray(whole.domains)
        n_bytes = sum(corpus.domain(name, side).n_bytes for name in names)
        numbers = np.full(len(corpus.domain_names), 255, dtype=np.uint8)
        for new, name in enumerate(names):
            numbers[corpus.domain_names.index(name)] = new
        kept = numbers[labels] != 255
        splits[side] = Split(np.asarray(whole.tokens)[kept], numbers[labels[kept]], n_bytes)
    return dataclasses.replace(corpus, domain_names=names, **splits)


def curve(log: list[dict], field: str) -> list[list[int | float]]:
    """Return [step, seconds of training, mean of the field over EVERY steps (and all layers)]."""
    points = []
    for end in range(EVERY, len(log) + 1, EVERY):
        values = np.array([record[field] for record in log[end - EVERY : end]])
        last, mean = log[end - 1], float(values.mean())
        points.append([last["step"], round(last["seconds"], 3), round(mean, 5)])
    return points


def routing_record(
    model: Transformer, log: list[dict], config: TrainConfig, corpus: Corpus
) -> dict:
    """Return load by domain over the whole validation text, and MaxVio over all of it and by batch.

    Source: arXiv 2408.15664 §4.1 for MaxVio over a whole validation set and over single batches.
    """
    counts = torch.stack(
        [domain_counts(model, corpus, name, config) for name in corpus.domain_names]
    )  # [domains, layers, experts]
    load = counts / counts.sum(dim=-1, keepdim=True)
    everything = counts.sum(dim=0)
    last = [record["max_violation"] for record in log[-LAST:]]
    return {
        "max_violation": {
            "global": max_violation(everything.double()).tolist(),  # one number per layer
            "batch": [statistics.fmean(layer) for layer in zip(*last, strict=True)],
        },
        "violation_curve": curve(log, "max_violation"),  # mean over layers
        "load": rounded((everything / everything.sum(dim=-1, keepdim=True)).tolist()),
        "load_by_domain": {
            name: rounded(layers.tolist())
            for name, layers in zip(corpus.domain_names, load, strict=True)
        },
    }


@torch.no_grad()
def domain_counts(
    model: Transformer, corpus: Corpus, domain: str, config: TrainConfig
) -> Int[Tensor, "layers experts"]:
    """Count each expert's choices over a domain's validation text, in sequences of seq_len."""
    device, total = device_of(model), 0
    batch = windows(corpus.validation_by_domain[domain], config.seq_len + 1)
    for tokens in batch.tokens[:, :-1].split(64):
        routings: list[Routing] = []
        with torch.autocast(device.type, torch.bfloat16, enabled=bool(config.bf16)):
            model.hidden(tokens.to(device), routings=routings)
        total = total + count_choices(routings)
    return total.cpu()


def rounded(value, digits: int = 6):
    """Round the numbers inside dicts and lists, so that files stay small and readable."""
    if isinstance(value, dict):
        return {key: rounded(inner, digits) for key, inner in value.items()}
    return [rounded(v, digits) for v in value] if isinstance(value, list) else round(value, digits)


def machine() -> dict:
    """Describe where and when a run was made; load_average says how much else was running."""
    cpu = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line for line in info.read_text("utf-8").splitlines() if line.startswith("model name")
        ]
        cpu = names[0].split(":")[1].strip() if names else cpu
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": round(psutil.getloadavg()[0], 1),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "experts": describe(),
    }
